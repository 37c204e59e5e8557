"""Host arrays on eight devices of one process, and on those that one of several has."""

from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from rtdlm.checkpoint.pieces import join_pieces, piece_name
from rtdlm.config import MeshConfig
from rtdlm.parallel import batch_sharding, make_mesh, put, put_rows
from rtdlm.parallel.placing import own_rows
from tests.parallel.split import Part, Placed, note_what_is_placed

MATRIX = np.arange(64, dtype=np.float32).reshape(8, 8)


def shard(*spec: Any, **axes: int) -> NamedSharding:
    return NamedSharding(make_mesh(MeshConfig(**axes)), PartitionSpec(*spec))


def assert_same(found: Any, expected: Any) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for left, right in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert (left.dtype, left.shape) == (right.dtype, right.shape)
        assert left.sharding.is_equivalent_to(right.sharding, left.ndim)
        if jax.dtypes.issubdtype(left.dtype, jax.dtypes.prng_key):
            left, right = jax.random.key_data(left), jax.random.key_data(right)
        for here, there in zip(left.addressable_shards, right.addressable_shards, strict=True):
            assert here.device == there.device
            np.testing.assert_array_equal(here.data, there.data)


@pytest.mark.parametrize("generator", ["threefry2x32", "rbg"])
def test_a_tree_is_put_as_jax_puts_it(generator: str) -> None:
    key = jax.random.key(3, impl=generator)
    tree = {
        "matrix": MATRIX,
        "vector": np.arange(8, dtype=np.int32),
        "key": key,
        "keys": jax.random.split(key, 8),
        "number": np.float32(0.1),
        "on a device": jax.numpy.arange(16.0),
    }
    mesh = {"fsdp": 4, "tensor": 2}
    shardings = {
        "matrix": shard("fsdp", "tensor", **mesh),
        "vector": shard("tensor", **mesh),
        "key": shard(**mesh),
        "keys": shard(("fsdp", "tensor"), **mesh),
        "number": shard(**mesh),
        "on a device": shard("fsdp", **mesh),
    }
    assert_same(put(tree, shardings), jax.device_put(tree, shardings))
    whole = shard(**mesh)
    assert_same(put(tree, whole), jax.device_put(tree, whole))


def test_an_array_in_pieces_is_put_as_the_whole() -> None:
    halves = {piece_name("w", (slice(None), s), (8, 8)): MATRIX[:, s] for s in
              (slice(0, 3), slice(3, 8))}  # fmt: skip
    sharding = shard("fsdp", "tensor", fsdp=4, tensor=2)
    assert_same(put(join_pieces(halves)["w"], sharding), jax.device_put(MATRIX, sharding))


def test_of_an_array_on_several_hosts_only_the_own_parts_are_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Read:
        shape, dtype = MATRIX.shape, MATRIX.dtype

        def __init__(self) -> None:
            self.indices: list[Any] = []

        def __getitem__(self, index: Any) -> np.ndarray:
            self.indices.append(index)
            return MATRIX[index]

    note_what_is_placed(monkeypatch)
    part = Part(shard("fsdp", "tensor", fsdp=4, tensor=2), 2, 5)
    leaf = Read()
    placed = put([leaf], [part])[0]
    placed.assert_part_of(MATRIX, part)
    assert [tuple((s.start, s.stop) for s in index) for index in leaf.indices] == [
        ((2, 4), (0, 4)),
        ((2, 4), (4, 8)),
        ((4, 6), (0, 4)),
    ]


def test_a_key_on_several_hosts_is_put_as_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    key, sharding = jax.random.key(3, impl="rbg"), shard(fsdp=8)
    expected = jax.device_put(key, sharding)
    monkeypatch.setattr(NamedSharding, "is_fully_addressable", False)
    found = put({"key": key}, sharding)["key"]
    monkeypatch.undo()
    assert_same(found, expected)


@pytest.mark.parametrize(
    ("mesh", "shape", "devices", "rows"),
    [
        ({}, (8, 4), (0, 8), (0, 8)),
        ({}, (8, 4), (3, 4), (3, 4)),
        ({}, (16, 4), (2, 5), (4, 10)),
        ({"fsdp": 2, "data": 1, "tensor": 4}, (8, 4), (0, 4), (0, 4)),
        ({"fsdp": 2, "data": 1, "tensor": 4}, (8, 4), (4, 8), (4, 8)),
        ({"fsdp": 2, "data": 1, "context": 4}, (8, 4), (2, 6), (0, 8)),
        ({"data": 1, "tensor": 8}, (8, 4), (0, 2), (0, 8)),
        ({"data": 1, "context": 8}, (8, 8), (7, 8), (0, 8)),
    ],
)
def test_a_process_reads_the_rows_of_its_devices(
    monkeypatch: pytest.MonkeyPatch,
    mesh: dict[str, int],
    shape: tuple[int, int],
    devices: tuple[int, int],
    rows: tuple[int, int],
) -> None:
    part = Part(batch_sharding(make_mesh(MeshConfig(**mesh))), *devices)
    assert own_rows(part, shape) == rows
    note_what_is_placed(monkeypatch)
    whole = np.arange(shape[0] * shape[1]).reshape(shape)
    reads = []

    def read(first: int, last: int) -> dict[str, np.ndarray]:
        reads.append((first, last))
        return {"ids": whole[first:last], "weights": -whole[first:last]}

    placed = put_rows(read, part, shape)
    assert reads == [rows]
    assert all(isinstance(array, Placed) for array in placed.values())
    placed["ids"].assert_part_of(whole, part)
    placed["weights"].assert_part_of(-whole, part)


@pytest.mark.parametrize("mesh", [{}, {"fsdp": 2, "context": 4}, {"data": 1, "tensor": 8}])
def test_rows_that_are_put_are_the_whole_batch(mesh: dict[str, int]) -> None:
    sharding = batch_sharding(make_mesh(MeshConfig(**mesh)))
    found = put_rows(lambda first, last: [MATRIX[first:last]], sharding, MATRIX.shape)
    assert_same(found, [jax.device_put(MATRIX, sharding)])
