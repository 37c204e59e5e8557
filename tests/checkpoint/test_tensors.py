import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors
from safetensors.numpy import load_file, save_file

from rtdlm.checkpoint.tensors import (
    DTYPES,
    read_parts,
    read_tensors,
    write_parts,
    write_tensors,
)
from rtdlm.config.errors import UserError


def assert_same(ours: Any, theirs: Any) -> None:
    """Names, types, shapes and bits agree."""
    assert {n: (a.dtype, a.shape, a.tobytes()) for n, a in ours.items()} == {
        n: (a.dtype, a.shape, a.tobytes()) for n, a in theirs.items()
    }


def sample(dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    bits = np.random.default_rng(0).integers(0, 2, (*shape, dtype.itemsize), np.uint8)
    return bits.view(dtype).reshape(shape)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (5,), (2, 3, 4)])
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_every_type_and_shape_comes_back_bitwise(
    tmp_path: Path, dtype: np.dtype, shape: tuple[int, ...]
) -> None:
    arrays = {"a/b": sample(dtype, shape), "c": np.arange(3, dtype=np.int8)}
    write_tensors(tmp_path / "file", arrays)
    assert_same(read_tensors(tmp_path / "file"), arrays)


MIXED = {
    "scale": np.linspace(0, 1, 7).astype(ml_dtypes.bfloat16),
    "flags": np.array([True, False, True]),
    "block/w": np.arange(6, dtype=np.float32).reshape(2, 3),
    "block/b": np.arange(3, dtype=np.int64),
    "block/count": np.array(7, np.float32),
}


def test_the_bytes_are_those_of_the_library(tmp_path: Path) -> None:
    write_tensors(tmp_path / "ours", MIXED)
    save_file(MIXED, tmp_path / "library")
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "library").read_bytes()


def test_the_library_reads_ours(tmp_path: Path) -> None:
    write_tensors(tmp_path / "ours", MIXED)
    assert_same(load_file(tmp_path / "ours"), MIXED)


def test_the_library_knows_every_type_name_that_we_write(tmp_path: Path) -> None:
    write_tensors(tmp_path / "f", {str(d): sample(d, (2,)) for d in DTYPES.values()})
    entries = dict(safetensors.deserialize((tmp_path / "f").read_bytes()))
    assert {name: entry["dtype"] for name, entry in entries.items()} == {
        str(dtype): name for name, dtype in DTYPES.items()
    }


def test_views_that_are_not_contiguous_are_written_in_order(tmp_path: Path) -> None:
    matrix = np.arange(12, dtype=np.float32).reshape(3, 4)
    write_tensors(tmp_path / "file", {"t": matrix.T, "s": matrix[::2, 1:3]})
    assert_same(read_tensors(tmp_path / "file"), {"t": matrix.T, "s": matrix[::2, 1:3]})


def test_arrays_are_aligned_read_only_maps(tmp_path: Path) -> None:
    write_tensors(tmp_path / "file", MIXED)
    for array in read_tensors(tmp_path / "file").values():
        assert array.flags.aligned and not array.flags.writeable and not array.flags.owndata


def test_a_type_outside_the_format_is_named(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="'w' is int4, which safetensors cannot hold"):
        write_tensors(tmp_path / "file", {"w": np.zeros(2, ml_dtypes.int4)})


def test_parts_follow_the_hugging_face_layout(tmp_path: Path) -> None:
    arrays = {name: np.full(25, i, np.float32) for i, name in enumerate("abcde")}
    arrays["big"] = np.zeros(100, np.float32)
    records = write_parts(tmp_path, "model", arrays, part_bytes=200)
    assert set(records) == {path.name for path in tmp_path.iterdir()}
    assert json.loads((tmp_path / "model.safetensors.index.json").read_text()) == {
        "metadata": {"total_size": 900},
        "weight_map": {
            "a": "model-00001-of-00004.safetensors",
            "b": "model-00001-of-00004.safetensors",
            "c": "model-00002-of-00004.safetensors",
            "d": "model-00002-of-00004.safetensors",
            "e": "model-00004-of-00004.safetensors",
            "big": "model-00003-of-00004.safetensors",
        },
    }
    second = load_file(tmp_path / "model-00002-of-00004.safetensors")
    assert_same(second, {"c": arrays["c"], "d": arrays["d"]})
    assert_same(read_parts(tmp_path, "model"), arrays)


@pytest.mark.parametrize("arrays", [{}, {"w": np.ones(4, np.float32)}], ids=["none", "one"])
def test_what_fits_is_one_file(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    assert list(write_parts(tmp_path, "model", arrays, part_bytes=16)) == ["model.safetensors"]
    assert_same(read_parts(tmp_path, "model"), arrays)
    assert_same(load_file(tmp_path / "model.safetensors"), arrays)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: b"", "its header is incomplete"),
        (lambda data: data[:5], "its header is incomplete"),
        (lambda data: data[:40], "its header is incomplete"),
        (lambda data: data[:-1], "an array should be bytes 0 to 16 of 15"),
        (
            lambda data: data.replace(b"{", b"[", 1),
            "Expecting ',' delimiter: line 1 column 5 (char 4)",
        ),
        (lambda data: data.replace(b'"F32"', b'"F33"'), "'F33'"),
        (
            lambda data: data.replace(b"[4]", b"[5]"),
            "cannot reshape array of size 4 into shape (5,)",
        ),
    ],
    ids=[
        "empty",
        "no header",
        "half a header",
        "a byte short",
        "no JSON",
        "unknown type",
        "wrong shape",
    ],
)
def test_a_damaged_file_is_one_sentence(tmp_path: Path, change: Any, reason: str) -> None:
    path = tmp_path / "model.safetensors"
    write_tensors(path, {"w": np.ones(4, np.float32)})
    data = change(path.read_bytes())
    path.write_bytes(data)
    with pytest.raises(UserError) as error:
        read_tensors(path)
    assert str(error.value) == (
        f"{path} ({len(data)} bytes) is cut short or is not a safetensors file ({reason}); "
        "fetch or export it again"
    )
