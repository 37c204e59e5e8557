"""From what a config says about data to a loader, preparing text first if need be."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from rtdlm.config import AGIConfig, UserError
from rtdlm.data import Loader, PrepareProgress, Split, Tokenizer, Warmup, prepare
from rtdlm.training.source import Source

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
    config: AGIConfig,
    out: Path,
    *,
    source: Source | None = None,
    progress: Callable[[PrepareProgress], None] | None = None,
) -> Corpus:
    """Opens the shards of `config`; its text is prepared into `out`/data first, once.

    `source` is the model that the run starts from, if any: its tokenizer is the only one.

    Raises:
        UserError: no data, or data that is missing, damaged or does not fit.
    """
    _prepare_text(config, out, source, progress)
    return open_prepared(config, out, source=source)


def open_prepared(config: AGIConfig, out: Path, *, source: Source | None = None) -> Corpus:
    """Opens the shards of `config`, whose text was prepared into `out`/data.

    An embedding table has no use for rows beyond the tokenizer's ids, so `vocab_size` shrinks to
    the tokenizer's size, rounded up to a multiple that devices like; the table of a `source` has
    the rows that it has.

    Raises:
        UserError: data that is missing, damaged or does not fit.
    """
    loader = open_loader(config, out, "train")
    tokenizer = loader.tokenizer()
    if source is not None:
        tokenizer = _tokenizer_of(source, tokenizer, config)
    elif tokenizer is not None:
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
        in_order=config.memory.across_steps and split == "train",
    )


def _tokenizer_of(source: Source, beside: Tokenizer | None, config: AGIConfig) -> Tokenizer | None:
    """That of the model, or the one beside the shards if the model brings none."""
    if source.tokenizer is None or beside is None:
        return source.tokenizer or beside
    if not source.tokenizer.encodes_like(beside):
        raise UserError(
            f"{', '.join(config.data.shards)} was prepared with another tokenizer than that of the "
            f"model in {source.folder}; prepare the text with --tokenizer {config.data.tokenizer}"
        )
    return source.tokenizer


def _require_tokenizer(source: Source) -> Tokenizer:
    """The model's, if it has one with which text can be prepared."""
    tokenizer, rows = source.tokenizer, source.config.vocab_size
    if tokenizer is None:
        raise UserError(
            f"{source.folder} brings no tokenizer.json, so that no text can be prepared for its "
            "model; put it there, or give shards to --data-dir"
        )
    if tokenizer.vocab_size > rows:
        raise UserError(
            f"the tokenizer in {source.folder} has {tokenizer.vocab_size} tokens, the last being "
            f"{tokenizer.name_of(tokenizer.vocab_size - 1)!r}, and its model {rows}; remove from "
            "tokenizer.json what the model does not know, and name there a special token that ends "
            "texts"
        )
    return tokenizer


def _prepare_text(
    config: AGIConfig,
    out: Path,
    source: Source | None,
    progress: Callable[[PrepareProgress], None] | None,
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
            tokenizer=data.tokenizer if source is None else _require_tokenizer(source),
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
