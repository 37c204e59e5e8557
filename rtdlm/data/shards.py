"""Shards: integer tensors in safetensors files, read through memory maps.

A safetensors file is 8 bytes of little-endian header length, a JSON header `{name: {dtype, shape,
data_offsets}}` and the tensors' bytes. A map over those bytes costs no memory until it is read, so
that any window of a corpus larger than memory is one small copy away.
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from rtdlm.config.errors import UserError
from rtdlm.data.manifest import Manifest, ShardEntry, Split, read_manifest
from rtdlm.data.tokenizer import TOKENIZER_FILE
from rtdlm.disk import hash_file, replace_file

INPUT_IDS = "input_ids"

_INTEGERS = {
    "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8",
    "I64": "<i8", "BOOL": "?",
}  # fmt: skip
_MAX_HEADER_BYTES = 100_000_000
# Each open map holds a file descriptor, of which systems give as few as 256.
_OPEN_MAPS = 128


@dataclass(frozen=True)
class Tensor:
    """Where an integer tensor lies in a file."""

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int

    def map(self) -> np.ndarray:
        """The tensor, read-only and in place; reading it reads the file."""
        return _map(self)


@lru_cache(maxsize=_OPEN_MAPS)
def _map(tensor: Tensor) -> np.ndarray:
    if 0 in tensor.shape:
        return np.zeros(tensor.shape, tensor.dtype)
    try:
        return np.memmap(
            tensor.path, tensor.dtype, mode="r", offset=tensor.offset, shape=tensor.shape
        )
    except (OSError, ValueError) as error:
        raise UserError(
            f"{tensor.path} cannot be mapped: {error}; it was changed or removed during the run"
        ) from None


def open_tensors(path: Path) -> dict[str, Tensor]:
    """The integer tensors of a safetensors file; checks that none of its bytes are missing.

    Raises:
        UserError: the file is missing, truncated or no safetensors file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or not 2 <= length <= min(_MAX_HEADER_BYTES, size - 8):
                raise UserError(_damaged(path, f"{size} bytes with no complete header"))
            header = json.loads(file.read(length))
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        promised = 8 + length + max((e["data_offsets"][1] for e in entries.values()), default=0)
        if promised != size:
            raise UserError(_damaged(path, f"{size} bytes where its header promises {promised}"))
        return {
            name: Tensor(
                path,
                name,
                _INTEGERS[entry["dtype"]],
                tuple(entry["shape"]),
                8 + length + entry["data_offsets"][0],
            )
            for name, entry in entries.items()
            if entry["dtype"] in _INTEGERS
        }
    except OSError as error:
        raise UserError(f"shard {path} cannot be read: {error.strerror}; restore it") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(_damaged(path, f"a header that is not safetensors ({error})")) from None


def _damaged(path: Path, found: str) -> str:
    return f"shard {path} is damaged or truncated: it has {found}; restore it or prepare again"


def check_ids(ids: np.ndarray, tensor: Tensor, vocab_size: int, offset: int = 0) -> None:
    """Raises `UserError` unless all ids are in [0, vocab_size); `offset` is where they start."""
    if ids.size == 0 or (int(ids.max()) < vocab_size and int(ids.min()) >= 0):
        return
    flat = ids.reshape(-1)
    place = int(np.flatnonzero((flat >= vocab_size) | (flat < 0))[0])
    raise UserError(
        f"shard {tensor.path} holds id {int(flat[place])} at {offset + place} of `{tensor.name}`, "
        f"but the vocabulary has {vocab_size} ids from 0 on; use the shards of this model's "
        "tokenizer, or set vocab_size"
    )


def write_shard(path: Path, ids: np.ndarray, *, split: Split, documents: int) -> ShardEntry:
    """Writes a stream of ids [tokens] to `path`, whole or not at all; returns its entry."""
    record = replace_file(path, save({INPUT_IDS: ids}))
    return ShardEntry(path.name, split, record.sha256, record.bytes, len(ids), documents)


def open_stream(directory: Path, manifest: Manifest, split: Split) -> list[Tensor]:
    """The streams of a split, in order, each checked against the manifest without reading it.

    Raises:
        UserError: a shard or the tokenizer is missing or not the one in the manifest.
    """
    check_tokenizer(directory, manifest)
    return [_open_entry(directory, manifest, entry) for entry in manifest.of(split)]


def _open_entry(directory: Path, manifest: Manifest, entry: ShardEntry) -> Tensor:
    path = directory / entry.file
    tensor = open_tensors(path).get(INPUT_IDS)
    expected = f"{entry.tokens} ids of {manifest.dtype} in {entry.size} bytes"
    if tensor is None:
        raise UserError(_mismatch(path, "has no integer tensor `input_ids`", expected))
    size = path.stat().st_size
    dtype = np.dtype(tensor.dtype).name
    if (tensor.shape, size, dtype) != ((entry.tokens,), entry.size, manifest.dtype):
        found = f"has shape {list(tensor.shape)} of {dtype} in {size} bytes"
        raise UserError(_mismatch(path, found, expected))
    return tensor


def _mismatch(path: Path, found: str, expected: str) -> str:
    return (
        f"shard {path} {found}, but its manifest says {expected}; restore the shard that "
        "belongs to this manifest or prepare again"
    )


def check_tokenizer(directory: Path, manifest: Manifest) -> None:
    """Raises `UserError` unless `tokenizer.json` is the one the shards were made with."""
    path = directory / TOKENIZER_FILE
    if not path.exists():
        raise UserError(f"{path} is missing, but its manifest names it; restore it")
    if hash_file(path) != manifest.tokenizer_sha256:
        raise UserError(
            f"{path} is not the tokenizer that {directory} was prepared with (its SHA-256 differs "
            "from the manifest's); restore it or prepare again"
        )


def verify_shards(directory: str | Path) -> Manifest:
    """Reads every byte of a prepared directory and holds it against the manifest's checksums.

    Raises:
        UserError: naming the first file that differs.
    """
    directory = Path(directory)
    manifest = read_manifest(directory)
    check_tokenizer(directory, manifest)
    for entry in manifest.shards:
        _open_entry(directory, manifest, entry)
        if hash_file(directory / entry.file) != entry.sha256:
            raise UserError(
                f"shard {directory / entry.file} has other bytes than when it was written (its "
                "SHA-256 differs from the manifest's); restore it or prepare again"
            )
    return manifest
