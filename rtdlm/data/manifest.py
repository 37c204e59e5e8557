"""`manifest.json`: what a directory of prepared shards holds, written last.

DIR/manifest.json            this
DIR/plan.json                which files were read, and how they were cut and split
DIR/tokenizer.json           the tokenizer
DIR/train-00000.safetensors  `input_ids` [tokens], one stream in order of the file names
DIR/heldout-00000.safetensors
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rtdlm.config.errors import UserError
from rtdlm.disk import replace_file

MANIFEST_FILE = "manifest.json"
PLAN_FILE = "plan.json"
FORMAT = 1

Split = Literal["train", "heldout"]
SPLITS: tuple[Split, ...] = ("train", "heldout")


@dataclass(frozen=True)
class ShardEntry:
    """One shard file.

    Attributes:
        file: its name in the directory.
        split: `train` or `heldout`.
        sha256: of the whole file, hexadecimal.
        size: of the whole file [bytes].
        tokens: how many ids it holds.
        documents: how many documents begin among them.
    """

    file: str
    split: Split
    sha256: str
    size: int
    tokens: int
    documents: int


@dataclass(frozen=True)
class Totals:
    """Sums over one split: ids, documents, and the UTF-8 bytes of their text."""

    tokens: int
    documents: int
    text_bytes: int


@dataclass(frozen=True)
class Manifest:
    """The content of `manifest.json`.

    Attributes:
        format: version of this layout.
        tokenizer: how it was made: `byte`, `bpe`, a path, or the hash of one that was given.
        tokenizer_sha256: of `tokenizer.json`.
        vocab_size: ids are in [0, vocab_size).
        document_id: the id that starts each document.
        dtype: of the ids in the shards: `uint16`, or `uint32` for a vocabulary beyond 65,536.
        text: the arguments that named the text.
        files: how many files of text were read.
        passed_over: how many files were not, by reason.
        totals: split -> sums.
        shards: in the order of the stream.
    """

    format: int
    tokenizer: str
    tokenizer_sha256: str
    vocab_size: int
    document_id: int
    dtype: str
    text: tuple[str, ...]
    files: int
    passed_over: Mapping[str, int]
    totals: Mapping[str, Totals]
    shards: tuple[ShardEntry, ...]

    def of(self, split: Split) -> tuple[ShardEntry, ...]:
        """The shards of one split, in order."""
        return tuple(shard for shard in self.shards if shard.split == split)


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Writes `manifest.json`, whole or not at all."""
    write_json(directory / MANIFEST_FILE, asdict(manifest))


def read_manifest(directory: Path) -> Manifest:
    """The manifest of a directory that `prepare` finished.

    Raises:
        UserError: it is missing, unreadable or of another version.
    """
    path = directory / MANIFEST_FILE
    if not path.exists():
        if (directory / PLAN_FILE).exists():
            raise UserError(
                f"{directory} is only partly prepared; run the same prepare command again to "
                "finish it"
            )
        raise UserError(f"{directory} has no {MANIFEST_FILE}; run `python -m rtdlm.prepare` first")
    tree = read_json(path)
    if tree.get("format") != FORMAT:
        raise UserError(
            f"{path} has format {tree.get('format')!r}, expected {FORMAT}; prepare the text again "
            "with this version"
        )
    try:
        tree["text"] = tuple(tree["text"])
        tree["totals"] = {split: Totals(**sums) for split, sums in tree["totals"].items()}
        tree["shards"] = tuple(ShardEntry(**entry) for entry in tree["shards"])
        return Manifest(**tree)
    except (TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{path} lacks or mistypes a field ({error}); prepare the text again"
        ) from None


def write_json(path: Path, tree: Any) -> None:
    """Writes indented JSON, whole or not at all."""
    replace_file(path, (json.dumps(tree, indent=2) + "\n").encode("utf-8"))


def read_json(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file."""
    try:
        tree = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} is not readable JSON ({error}); remove its directory and prepare again"
        ) from None
    if not isinstance(tree, dict):
        raise UserError(f"{path} holds no JSON object; remove its directory and prepare again")
    return tree
