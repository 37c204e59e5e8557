"""`prepare`: text in, a directory of shards out.

    find files -> survey (readable? how cut, how split?) -> tokenizer -> plan.json -> shards
    -> manifest.json

Each file appears whole or not at all, the manifest last. A second call with the same arguments
goes on where the first was interrupted, to the same bytes, or returns at once if it was finished.
Other arguments, or text that changed, are refused. Memory holds one chunk of ids and a few pieces
of text, whatever the size of the corpus; all cores tokenize (RAYON_NUM_THREADS sets how many).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rtdlm.config.errors import UserError
from rtdlm.data.encode import JOURNAL_FILE, Chunk, encode_corpus, shard_dtype, totals
from rtdlm.data.manifest import (
    FORMAT,
    MANIFEST_FILE,
    SPLITS,
    Manifest,
    read_manifest,
    write_manifest,
)
from rtdlm.data.plan import (
    Plan,
    check_arguments,
    match_sources,
    read_plan,
    record,
    write_plan,
)
from rtdlm.data.shards import open_stream
from rtdlm.data.sources import Found, Source, find_sources
from rtdlm.data.survey import TOKENIZER_SAMPLE_BYTES, survey
from rtdlm.data.tokenizer import (
    MIN_VOCAB_SIZE,
    Tokenizer,
    byte_tokenizer,
    read_tokenizer,
    train_bpe,
)
from rtdlm.disk import LOCK_FILE, DirectoryLock, make_directory

SHARD_TOKENS = 1 << 25

Stage = Literal["read", "tokenizer", "encode"]


@dataclass(frozen=True)
class PrepareProgress:
    """How far `prepare` is.

    Attributes:
        stage: `read` surveys the text, `tokenizer` trains one, `encode` writes shards.
        done: of this stage [bytes of text].
        total: of this stage; an estimate for compressed text in `read` [bytes of text].
        tokens: written so far [tokens].
    """

    stage: Stage
    done: int
    total: int
    tokens: int = 0


Report = Callable[[PrepareProgress], None]


def prepare(
    text: Sequence[str],
    out: str | Path,
    *,
    tokenizer: str | Tokenizer,
    vocab_size: int,
    held_out_fraction: float,
    seed: int = 0,
    shard_tokens: int = SHARD_TOKENS,
    progress: Report | None = None,
) -> Manifest:
    """Turns text into shards that `Loader` reads.

    Args:
        text: files, directories, globs or `python-library`; see `sources`.
        out: the directory to write, made if need be.
        tokenizer: `byte`, `bpe` (trained on the train split), the path of a `tokenizer.json`, or
            one that is here already, which the plan knows by its hash.
        vocab_size: most ids the tokenizer may have [tokens].
        held_out_fraction: share of the text that is kept for evaluation, in (0, 1).
        seed: salt of the split; another seed holds other text out.
        shard_tokens: a shard ends with the first batch of text that reaches this [tokens].
        progress: called now and then, from this thread.

    Raises:
        UserError: text, tokenizer or arguments are not as expected, or `out` holds something else.
        StorageError: the disk refused.
    """
    out = Path(out)
    kind = tokenizer.hash if isinstance(tokenizer, Tokenizer) else tokenizer
    arguments = _check(text, kind, vocab_size, held_out_fraction, seed, shard_tokens)
    given = _given_tokenizer(tokenizer, vocab_size)
    found = find_sources(text, exclude=out)
    report = progress if progress is not None else _ignore
    make_directory(out)
    with DirectoryLock(out), _nothing_left_if_refused(out):
        plan = read_plan(out)
        if plan is None:
            plan = _make_plan(out, found, arguments, given, report)
        check_arguments(out, plan, arguments)
        _check_tokenizer_unchanged(out, plan, given)
        sources = match_sources(out, plan, found.sources)
        if not (out / MANIFEST_FILE).exists():
            _encode(out, plan, sources, report)
        return _finished(out)


@contextmanager
def _nothing_left_if_refused(out: Path) -> Iterator[None]:
    """Removes the directory if a call that is refused made nothing but it."""
    try:
        yield
    except UserError:
        if [path.name for path in out.iterdir()] == [LOCK_FILE]:
            (out / LOCK_FILE).unlink()
            out.rmdir()
        raise


def _ignore(event: PrepareProgress) -> None:
    """Reports to nobody."""


def _check(
    text: Sequence[str],
    tokenizer: str,
    vocab_size: int,
    held_out_fraction: float,
    seed: int,
    shard_tokens: int,
) -> dict[str, Any]:
    """The arguments that determine the result, as the plan keeps them."""
    if not 0 < held_out_fraction < 1:
        raise UserError(
            f"held_out_fraction={held_out_fraction} is outside (0, 1); choose for instance 0.02"
        )
    if not 0 <= seed < 2**63:
        raise UserError(f"seed={seed} is outside 0 to 2**63 - 1; choose one inside")
    if shard_tokens < 1:
        raise UserError(f"shard_tokens={shard_tokens} must be at least 1")
    if vocab_size < MIN_VOCAB_SIZE and tokenizer in ("byte", "bpe"):
        raise UserError(
            f"vocab_size={vocab_size} is too small for a {tokenizer} tokenizer: the bytes and the "
            f"document token alone are {MIN_VOCAB_SIZE} tokens; use at least {MIN_VOCAB_SIZE}"
        )
    return {
        "text": list(text),
        "tokenizer": tokenizer,
        # Other tokenizers have the size they have.
        "vocab_size": vocab_size if tokenizer == "bpe" else None,
        "held_out_fraction": held_out_fraction,
        "seed": seed,
        "shard_tokens": shard_tokens,
    }


def _given_tokenizer(given: str | Tokenizer, vocab_size: int) -> Tokenizer | None:
    """The tokenizer if it is known before the text is."""
    if given == "bpe":
        return None
    if isinstance(given, Tokenizer):
        name, tokenizer = "that was given", given
    else:
        name = given
        tokenizer = byte_tokenizer() if given == "byte" else read_tokenizer(given)
    if tokenizer.vocab_size > vocab_size:
        raise UserError(
            f"tokenizer {name} has {tokenizer.vocab_size} tokens, more than "
            f"vocab_size={vocab_size}; set vocab_size to at least {tokenizer.vocab_size}"
        )
    return tokenizer


def _check_tokenizer_unchanged(out: Path, plan: Plan, given: Tokenizer | None) -> None:
    if given is not None and given.hash != plan.tokenizer_sha256:
        raise UserError(
            f"{out} was prepared with another tokenizer than {plan.arguments['tokenizer']} holds "
            "now; restore that file or choose another directory"
        )


def _make_plan(
    out: Path,
    found: Found,
    arguments: dict[str, Any],
    tokenizer: Tokenizer | None,
    report: Report,
) -> Plan:
    strangers = sorted(path.name for path in out.glob("*.safetensors"))
    if strangers:
        raise UserError(
            f"{out} already holds {strangers[0]}, which `prepare` did not write; choose another "
            "directory"
        )
    size = sum(source.size for source in found.sources)
    surveyed = survey(
        found.sources,
        held_out_fraction=arguments["held_out_fraction"],
        seed=arguments["seed"],
        sample_bytes=0 if tokenizer is not None else TOKENIZER_SAMPLE_BYTES,
        progress=lambda done: report(PrepareProgress("read", min(done, size), size)),
    )
    if tokenizer is None:
        sample_bytes = sum(map(len, surveyed.sample))
        report(PrepareProgress("tokenizer", 0, sample_bytes))
        tokenizer = train_bpe(surveyed.sample, arguments["vocab_size"])
        report(PrepareProgress("tokenizer", sample_bytes, sample_bytes))
    tokenizer.save(out)
    texts = {source.name for source in surveyed.sources}
    plan = Plan(
        arguments=arguments,
        sources=tuple(record(s, is_text=s.name in texts) for s in found.sources),
        passed_over={**(found.passed_over + surveyed.passed_over)},
        piece_limit=surveyed.piece_limit,
        threshold=surveyed.threshold,
        pieces=surveyed.pieces,
        text_bytes=surveyed.text_bytes,
        tokenizer_sha256=tokenizer.hash,
    )
    write_plan(out, plan)
    return plan


def _encode(out: Path, plan: Plan, sources: Sequence[Source], report: Report) -> None:
    tokenizer = Tokenizer.load(out)
    chunks = encode_corpus(
        sources,
        tokenizer=tokenizer,
        directory=out,
        piece_limit=plan.piece_limit,
        threshold=plan.threshold,
        seed=plan.arguments["seed"],
        shard_tokens=plan.arguments["shard_tokens"],
        progress=lambda done, tokens: report(
            PrepareProgress("encode", done, plan.text_bytes, tokens)
        ),
    )
    write_manifest(out, _manifest(plan, sources, tokenizer, chunks))


def _manifest(
    plan: Plan, sources: Sequence[Source], tokenizer: Tokenizer, chunks: Sequence[Chunk]
) -> Manifest:
    return Manifest(
        format=FORMAT,
        tokenizer=plan.arguments["tokenizer"],
        tokenizer_sha256=tokenizer.hash,
        vocab_size=tokenizer.vocab_size,
        document_id=tokenizer.start_id,
        dtype=shard_dtype(tokenizer.vocab_size).name,
        text=tuple(plan.arguments["text"]),
        files=len(sources),
        passed_over=plan.passed_over,
        totals=totals(chunks),
        shards=tuple(shard for chunk in chunks for shard in chunk.shards),
    )


def _finished(out: Path) -> Manifest:
    """The manifest, after a look at every shard; the journal has done its work."""
    manifest = read_manifest(out)
    for split in SPLITS:
        open_stream(out, manifest, split)
    (out / JOURNAL_FILE).unlink(missing_ok=True)
    return manifest
