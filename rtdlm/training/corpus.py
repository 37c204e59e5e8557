"""From what a config says about data to a loader, preparing text first if need be."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from rtdlm.config import AGIConfig, UserError
from rtdlm.data import Loader, PrepareProgress, Split, Tokenizer, Warmup, prepare

VOCABULARY_MULTIPLE = 64


class Corpus(NamedTuple):
    """The data of a run and the config that fits it."""

    config: AGIConfig
    loader: Loader
    tokenizer: Tokenizer | None
    tokenizer_file: bytes | None
    """Contents of tokenizer.json, which goes into every checkpoint."""
    bytes_per_held_out_token: float | None


def open_corpus(
    config: AGIConfig, out: Path, *, progress: Callable[[PrepareProgress], None] | None = None
) -> Corpus:
    """Opens the shards of `config`; its text is prepared into `out`/data first, once.

    Raises:
        UserError: no data, or data that is missing, damaged or does not fit.
    """
    _prepare_text(config, out, progress)
    return open_prepared(config, out)


def open_prepared(config: AGIConfig, out: Path) -> Corpus:
    """Opens the shards of `config`, whose text was prepared into `out`/data.

    An embedding table has no use for rows beyond the tokenizer's ids, so `vocab_size` shrinks to
    the tokenizer's size, rounded up to a multiple that devices like.

    Raises:
        UserError: data that is missing, damaged or does not fit.
    """
    loader = open_loader(config, out, "train")
    tokenizer = loader.tokenizer()
    if tokenizer is not None:
        needed = -(-tokenizer.vocab_size // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
        config = replace(config, vocab_size=min(config.vocab_size, needed))
    held_out = open_loader(config, out, "heldout")
    file = None if tokenizer is None else tokenizer.definition
    return Corpus(config, loader, tokenizer, file, held_out.bytes_per_token)


def open_loader(config: AGIConfig, out: Path, split: Split) -> Loader:
    """Batches of one split of the data of a run in `out`, which is prepared already."""
    data = config.data
    return Loader(
        data.shards or (out / "data",),
        data.weights,
        seq_len=config.max_seq_len,
        batch_size=config.batch_size,
        seed=config.seed,
        split=split,
        vocab_size=config.vocab_size,
        held_out_fraction=data.held_out_fraction,
        warmup=Warmup(config) if split == "train" else None,
    )


def _prepare_text(
    config: AGIConfig, out: Path, progress: Callable[[PrepareProgress], None] | None
) -> None:
    data = config.data
    if data.text and data.shards:
        raise UserError(
            "both --text and --data-dir name training data; prepare the text first with "
            "`python -m rtdlm.prepare` and give both directories to --data-dir"
        )
    if data.text:
        prepare(
            data.text,
            out / "data",
            tokenizer=data.tokenizer,
            vocab_size=config.vocab_size,
            held_out_fraction=data.held_out_fraction,
            seed=config.seed,
            progress=progress,
        )
    elif not data.shards:
        raise UserError(
            "no training data was named; give --text FILE_OR_DIR, --text python-library or "
            "--data-dir SHARDS"
        )
