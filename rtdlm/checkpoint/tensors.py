"""Named arrays as safetensors: written while hashed, split into parts, read by memory map.

    file = length of header [8 bytes, little endian] | header [JSON, padded to 8] | data

The format is Hugging Face's (https://github.com/huggingface/safetensors#format), and so is the
layout of parts: `model-00001-of-00003.safetensors` beside `model.safetensors.index.json`. Written
here rather than by the library because the bytes must be hashed on their way, a full disk must
surface as OSError, and its NumPy reader knows neither float8 nor memory maps.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from rtdlm.checkpoint.pieces import join_pieces
from rtdlm.config.errors import UserError
from rtdlm.disk import FileRecord, HashingFile, write_file

Arrays = Mapping[str, np.ndarray]

DTYPES: dict[str, np.dtype] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "U16": np.dtype(np.uint16),
    "I16": np.dtype(np.int16),
    "U32": np.dtype(np.uint32),
    "I32": np.dtype(np.int32),
    "U64": np.dtype(np.uint64),
    "I64": np.dtype(np.int64),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "F8_E4M3FNUZ": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "F8_E5M2FNUZ": np.dtype(ml_dtypes.float8_e5m2fnuz),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "C64": np.dtype(np.complex64),
}
"""Name in the header -> NumPy type, for every type of the format that NumPy can hold."""

_METADATA = "__metadata__"
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def write_parts(
    directory: Path, stem: str, arrays: Arrays, *, part_bytes: int
) -> dict[str, FileRecord]:
    """Writes `stem.safetensors`, or parts with an index when the arrays exceed `part_bytes`.

    An array larger than `part_bytes` gets a part of its own. Returns file name -> record.

    Raises:
        TypeError: an array's type does not exist in the format.
        OSError: the disk refused.
    """
    from huggingface_hub import split_state_dict_into_shards_factory

    if not arrays:
        name = f"{stem}.safetensors"
        return {name: write_tensors(directory / name, {})}
    plan = split_state_dict_into_shards_factory(
        dict(arrays),
        get_storage_size=lambda array: array.nbytes,
        filename_pattern=f"{stem}{{suffix}}.safetensors",
        max_shard_size=part_bytes,
    )
    records = {
        file: write_tensors(directory / file, {name: arrays[name] for name in names})
        for file, names in plan.filename_to_tensors.items()
    }
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        name = _index_name(stem)
        records[name] = write_file(directory / name, json.dumps(index, indent=1).encode())
    return records


def process_stem(stem: str, process: int) -> str:
    """What `stem` is called in the files of one of several processes."""
    return f"{stem}.p{process:05d}"


def read_pieces(directory: Path, stem: str) -> dict[str, Any]:
    """Maps what one process wrote, or what several did: then arrays may be `Pieced`.

    Raises:
        UserError: a file is damaged, or pieces of an array are missing.
    """
    names = [path.name for path in directory.glob(f"{stem}.p*.safetensors*")]
    stems = {name[: len(process_stem(stem, 0))] for name in names}
    if not stems:
        return dict(_read_one(directory, stem))
    flat = {k: v for found in sorted(stems) for k, v in _read_one(directory, found).items()}
    try:
        return join_pieces(flat)
    except ValueError as error:
        raise UserError(
            f"the checkpoint {directory} is not whole: {error}; choose another step beside it"
        ) from None


def read_parts(directory: Path, stem: str) -> dict[str, np.ndarray]:
    """`read_pieces` with whole arrays; those of a single process are read when they are used."""
    return {name: np.asarray(array) for name, array in read_pieces(directory, stem).items()}


def _read_one(directory: Path, stem: str) -> dict[str, np.ndarray]:
    index = directory / _index_name(stem)
    if not index.exists():
        return read_tensors(directory / f"{stem}.safetensors")
    files = dict.fromkeys(json.loads(index.read_bytes())["weight_map"].values())
    return {name: array for file in files for name, array in read_tensors(directory / file).items()}


def write_tensors(
    path: Path, arrays: Arrays, *, metadata: Mapping[str, str] | None = None
) -> FileRecord:
    """Writes one new safetensors file; see `write_parts` for errors."""
    # Widest type first, as the library does: every array then starts at a multiple of its size.
    order = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    header: dict[str, Any] = {} if metadata is None else {_METADATA: dict(metadata)}
    end = 0
    for name in order:
        array = arrays[name]
        start, end = end, end + array.nbytes
        header[name] = {
            "dtype": _dtype_name(name, array.dtype),
            "shape": list(array.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with HashingFile(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            # reshape(-1) also gives scalars and empty arrays a byte view.
            file.write(np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8).data)
    return file.record


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Read-only arrays over a memory map of one safetensors file, in the order of its header.

    Raises:
        UserError: the file is cut short, is no safetensors file or holds an unknown type.
    """
    return read_described(path)[0]


def read_described(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """`read_tensors`, and the file's metadata; empty where it has none."""
    size = path.stat().st_size
    data = np.asarray(np.memmap(path, np.uint8, "r")) if size else np.empty(0, np.uint8)
    try:
        start = 8 + int.from_bytes(data[:8].tobytes(), "little")
        if not 8 < start <= size:
            raise ValueError("its header is incomplete")
        header = json.loads(data[8:start].tobytes())
        metadata = dict(header.pop(_METADATA, {}))
        return {name: _view(data[start:], **entry) for name, entry in header.items()}, metadata
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path} ({size} bytes) is cut short or is not a safetensors file ({error}); "
            "fetch or export it again"
        ) from None


def _view(data: np.ndarray, *, dtype: str, shape: list[int], data_offsets: list[int]) -> np.ndarray:
    start, end = data_offsets
    if not 0 <= start <= end <= len(data):
        raise ValueError(f"an array should be bytes {start} to {end} of {len(data)}")
    return data[start:end].view(DTYPES[dtype]).reshape(shape)


def _dtype_name(name: str, dtype: np.dtype) -> str:
    if dtype not in _NAMES:
        raise TypeError(
            f"{name!r} is {dtype}, which safetensors cannot hold; save a uint8 view of it"
        )
    return _NAMES[dtype]


def _index_name(stem: str) -> str:
    return f"{stem}.safetensors.index.json"
