import json
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rtdlm.config.errors import UserError
from rtdlm.data import read_manifest, verify_shards
from rtdlm.data.manifest import write_manifest
from rtdlm.data.shards import open_stream, open_tensors, write_shard
from tests.data.corpora import write_prepared

IDS = np.arange(1000) % 250


@pytest.fixture
def prepared(tmp_path) -> Path:
    return write_prepared(
        tmp_path / "out", {"train": [IDS, IDS[:300]], "heldout": [IDS[:100]]}, vocab_size=257
    )


def test_maps_equal_what_safetensors_reads(tmp_path) -> None:
    tensors = {
        str(dtype): np.arange(12, dtype=dtype).reshape(3, 4)
        for dtype in ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")
    } | {"mask": np.eye(3, dtype=bool), "none": np.zeros((0, 4), np.int32)}
    save_file({**tensors, "scores": np.ones(5, np.float32)}, tmp_path / "a.safetensors")
    opened = open_tensors(tmp_path / "a.safetensors")
    assert set(opened) == set(tensors)  # Only integers.
    for name, expected in load_file(tmp_path / "a.safetensors").items():
        if name in opened:
            found = opened[name].map()
            assert found.dtype == expected.dtype
            np.testing.assert_array_equal(found, expected)


def test_a_shard_is_mapped_not_read(prepared) -> None:
    tensor = open_tensors(prepared / "train-00000.safetensors")["input_ids"]
    assert isinstance(tensor.map(), np.memmap)
    assert not tensor.map().flags.writeable
    assert tensor.map() is tensor.map()


def test_a_written_shard_describes_itself(tmp_path) -> None:
    entry = write_shard(tmp_path / "a.safetensors", IDS.astype("u2"), split="train", documents=3)
    assert (entry.file, entry.split, entry.tokens, entry.documents) == (
        "a.safetensors", "train", 1000, 3,
    )  # fmt: skip
    assert entry.size == (tmp_path / "a.safetensors").stat().st_size
    np.testing.assert_array_equal(load_file(tmp_path / "a.safetensors")["input_ids"], IDS)


@pytest.mark.parametrize("kept", [0, 5, 8, 30, -1])
def test_a_truncated_shard_is_refused(prepared, kept) -> None:
    path = prepared / "train-00000.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    expected = rf"^shard {path} is damaged or truncated: it has {path.stat().st_size} bytes .*; res"
    with pytest.raises(UserError, match=expected):
        open_tensors(path)


def test_a_shard_with_bytes_too_many_is_refused(prepared) -> None:
    path = prepared / "train-00000.safetensors"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(
        UserError, match=f"it has {size + 1} bytes where its header promises {size}"
    ):
        open_tensors(path)


@pytest.mark.parametrize(
    "junk",
    [
        b"\xff" * 100,
        struct.pack("<Q", 4) + b"oops",
        struct.pack("<Q", 4) + b"[1] ",
        struct.pack("<Q", 8) + b'{"a": 1}',
        struct.pack("<Q", 20) + json.dumps({"a": {"dtype": 3}}).encode().ljust(20),
    ],
)
def test_what_is_no_safetensors_file_is_refused(tmp_path, junk) -> None:
    (tmp_path / "a.safetensors").write_bytes(junk)
    with pytest.raises(UserError, match=r"a\.safetensors is damaged or truncated: it has "):
        open_tensors(tmp_path / "a.safetensors")


def test_a_missing_shard_is_refused(prepared) -> None:
    (prepared / "train-00001.safetensors").unlink()
    with pytest.raises(UserError, match=r"train-00001\.safetensors cannot be read: No such file"):
        open_stream(prepared, read_manifest(prepared), "train")


@pytest.mark.parametrize(
    ("tensors", "found"),
    [
        ({"input_ids": IDS[:999].astype("u2")}, r"has shape \[999\] of uint16"),
        ({"input_ids": IDS.astype("u4")}, r"has shape \[1000\] of uint32"),
        ({"input_ids": IDS.astype("u2").reshape(2, 500)}, r"has shape \[2, 500\] of uint16"),
        ({"tokens": IDS.astype("u2")}, "has no integer tensor `input_ids`"),
    ],
)
def test_a_shard_that_is_not_the_manifests_is_refused(prepared, tensors, found) -> None:
    save_file(tensors, prepared / "train-00000.safetensors")
    expected = rf"train-00000\.safetensors {found}.*, but its manifest says 1000 ids of uint16 in"
    with pytest.raises(UserError, match=expected):
        open_stream(prepared, read_manifest(prepared), "train")


def test_changed_bytes_are_found_by_verification(prepared) -> None:
    assert verify_shards(prepared) == read_manifest(prepared)
    path = prepared / "heldout-00000.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    open_stream(prepared, read_manifest(prepared), "heldout")  # Too quick a look to see it.
    with pytest.raises(UserError, match=r"heldout-00000\.safetensors has other bytes than when it"):
        verify_shards(prepared)


def test_another_tokenizer_is_refused(prepared) -> None:
    path = prepared / "tokenizer.json"
    path.write_text(path.read_text() + "\n")
    with pytest.raises(UserError, match=r"tokenizer\.json is not the tokenizer that .* was prep"):
        open_stream(prepared, read_manifest(prepared), "train")
    path.unlink()
    with pytest.raises(UserError, match=r"tokenizer\.json is missing"):
        verify_shards(prepared)


def test_a_removed_file_is_told_when_it_is_read(prepared) -> None:
    manifest = read_manifest(prepared)
    write_manifest(prepared, manifest)
    (tensor,) = open_stream(prepared, manifest, "heldout")
    tensor.path.unlink()
    with pytest.raises(UserError, match=r"heldout-00000\.safetensors cannot be mapped: .*; it was"):
        tensor.map()
