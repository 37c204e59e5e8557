"""Opens a directory of shards, prepared here or made by another pipeline."""

from dataclasses import dataclass
from pathlib import Path

from rtdlm.config.errors import UserError
from rtdlm.data.manifest import MANIFEST_FILE, PLAN_FILE, Manifest, Split, read_manifest
from rtdlm.data.rows import RowWindows, open_rows
from rtdlm.data.shards import open_stream
from rtdlm.data.stream import StreamWindows, TokenStream
from rtdlm.data.tokenizer import TOKENIZER_FILE, read_tokenizer
from rtdlm.data.windows import Windows
from rtdlm.disk import hash_bytes, hash_file


@dataclass(frozen=True)
class ShardDirectory:
    """One split of a directory, ready to read.

    Attributes:
        path: of the directory.
        windows: its training rows.
        vocab_size: ids are below this.
        manifest: of a directory that `prepare` wrote, else None.
        tokenizer_sha256: of its `tokenizer.json`, or None where there is none.
        fingerprint: hash that names its content.
    """

    path: Path
    windows: Windows
    vocab_size: int
    manifest: Manifest | None
    tokenizer_sha256: str | None
    fingerprint: str


def open_directory(
    path: Path, split: Split, *, seq_len: int, vocab_size: int | None, held_out_fraction: float
) -> ShardDirectory:
    """Opens one split of a directory.

    Args:
        path: the directory.
        split: `train` or `heldout`.
        seq_len: inputs in a training row [tokens].
        vocab_size: that of the model; None takes the shards'.
        held_out_fraction: of a directory that brings no split of its own.

    Raises:
        UserError: there are no shards, they do not fit their manifest or `vocab_size`, or the
            split is empty.
    """
    if not path.is_dir():
        raise UserError(
            f"{path} is not a directory; give one that holds shards, or text to prepare"
        )
    prepared = (path / MANIFEST_FILE).exists() or (path / PLAN_FILE).exists()
    if prepared:
        opened = _open_prepared(path, split, seq_len, vocab_size)
    else:
        opened = _open_foreign(path, split, seq_len, vocab_size, held_out_fraction)
    if opened.windows.num_windows == 0:
        raise UserError(f"{path} has no rows in its {split} split; add text and prepare it anew")
    return opened


def _open_prepared(
    path: Path, split: Split, seq_len: int, vocab_size: int | None
) -> ShardDirectory:
    manifest = read_manifest(path)
    _check_vocabulary(path, manifest.vocab_size, vocab_size)
    stream = TokenStream(open_stream(path, manifest, split), vocab_size=manifest.vocab_size)
    content = "".join(shard.sha256 for shard in manifest.shards)
    return ShardDirectory(
        path=path,
        windows=StreamWindows(stream, seq_len=seq_len, document_id=manifest.document_id),
        vocab_size=manifest.vocab_size,
        manifest=manifest,
        tokenizer_sha256=manifest.tokenizer_sha256,
        fingerprint=hash_bytes(content.encode()),
    )


def _open_foreign(
    path: Path, split: Split, seq_len: int, vocab_size: int | None, held_out_fraction: float
) -> ShardDirectory:
    files = open_rows(path, split, held_out_fraction=held_out_fraction)
    tokenizer_file = path / TOKENIZER_FILE
    if tokenizer_file.exists():
        own_size = read_tokenizer(tokenizer_file).vocab_size
        _check_vocabulary(path, own_size, vocab_size)
    elif vocab_size is None:
        raise UserError(
            f"{path} has neither manifest.json nor tokenizer.json, so that its vocabulary is "
            "unknown; set vocab_size"
        )
    else:
        own_size = vocab_size
    content = [(file.path.name, file.ids.shape, file.path.stat().st_size) for file in files]
    return ShardDirectory(
        path=path,
        windows=RowWindows(files, seq_len=seq_len, vocab_size=own_size),
        vocab_size=own_size,
        manifest=None,
        tokenizer_sha256=hash_file(tokenizer_file) if tokenizer_file.exists() else None,
        fingerprint=hash_bytes(repr(content).encode()),
    )


def _check_vocabulary(path: Path, own_size: int, vocab_size: int | None) -> None:
    if vocab_size is not None and own_size > vocab_size:
        raise UserError(
            f"{path} has a vocabulary of {own_size} ids, more than vocab_size={vocab_size}; set "
            f"vocab_size to at least {own_size}"
        )
