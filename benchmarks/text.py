"""Character-level text for the time-to-loss benchmark: NumPy alone, the same for both sides.

The vocabulary is the text's own characters in their order; the first nine tenths are trained on,
the rest is held out and evaluated whole, in windows that do not overlap.
"""

from argparse import ArgumentParser
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import ROOT
from rtdlm.config.errors import UserError

DEFAULT_TEXT = ROOT.parent / "shared" / "data" / "tinyshakespeare.txt"
WINDOW = 64


class CharacterText(NamedTuple):
    """Ids of both parts, int64, and how many there may be."""

    train_N: np.ndarray
    held_out_N: np.ndarray
    vocab_size: int


class Windows(NamedTuple):
    """Non-overlapping rows and the characters that follow theirs, int64 `[rows, window]`."""

    ids_BT: np.ndarray
    labels_BT: np.ndarray


def read_characters(path: Path) -> CharacterText:
    """The text of `path`, split 90/10.

    Raises:
        UserError: it cannot be read or is too short.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"text {path} cannot be read: {error.strerror}; name another with --text FILE"
        ) from None
    if len(text) < 20 * WINDOW:
        raise UserError(
            f"text {path} has {len(text)} characters and the benchmark needs at least "
            f"{20 * WINDOW}; name another with --text FILE"
        )
    characters = sorted(set(text))
    place = {character: number for number, character in enumerate(characters)}
    ids_N = np.array([place[character] for character in text], dtype=np.int64)
    split = int(0.9 * len(ids_N))
    return CharacterText(ids_N[:split], ids_N[split:], len(characters))


def windows(ids_N: np.ndarray, *, length: int = WINDOW) -> Windows:
    """All whole windows of a text, in order."""
    rows = (len(ids_N) - 1) // length
    end = rows * length
    ids, labels = ids_N[:end], ids_N[1 : end + 1]
    return Windows(ids.reshape(rows, length), labels.reshape(rows, length))


def add_text_flag(parser: ArgumentParser) -> None:
    """Adds `--text`."""
    parser.add_argument(
        "--text", type=Path, default=DEFAULT_TEXT, metavar="FILE",
        help="text to train on (default: tinyshakespeare.txt in ../shared/data)",
    )  # fmt: skip
