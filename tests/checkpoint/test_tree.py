from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

from rtdlm.checkpoint.pieces import join_pieces
from rtdlm.checkpoint.tensors import read_tensors, write_tensors
from rtdlm.checkpoint.tree import flatten_own, flatten_tree, unflatten_like
from rtdlm.config.errors import UserError


class Scale(NamedTuple):
    value: jax.Array
    history: Any


@flax.struct.dataclass
class State:
    params: Any
    optimizer: Any
    key: jax.Array
    scale: Scale
    name: str = flax.struct.field(pytree_node=False, default="run")


def make_state(generator: str = "threefry2x32") -> State:
    params = {"block/attention": {"query": jnp.ones((2, 3)), "gain": jnp.ones(3, jnp.bfloat16)}}
    return State(
        params=params,
        optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1)).init(params),
        key=jax.random.split(jax.random.key(3, impl=generator), 2),
        scale=Scale(jnp.float32(0.1), [None, (), jnp.array([True, False])]),
    )


def test_names_are_paths() -> None:
    flat = flatten_tree(make_state())
    assert {name: f"{array.dtype}{array.shape}" for name, array in flat.items()} == {
        "params/block/attention/gain": "bfloat16(3,)",
        "params/block/attention/query": "float32(2, 3)",
        "optimizer/1/0/count": "int32()",
        "optimizer/1/0/mu/block/attention/gain": "bfloat16(3,)",
        "optimizer/1/0/mu/block/attention/query": "float32(2, 3)",
        "optimizer/1/0/nu/block/attention/gain": "bfloat16(3,)",
        "optimizer/1/0/nu/block/attention/query": "float32(2, 3)",
        "key": "uint32(2, 2)",
        "scale/value": "float32()",
        "scale/history/2": "bool(2,)",
    }


@pytest.mark.parametrize("generator", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_a_state_survives_the_disk_bitwise(tmp_path: Path, generator: str) -> None:
    state = make_state(generator)
    write_tensors(tmp_path / "file", flatten_tree(state))
    template = jax.eval_shape(lambda: make_state(generator))
    restored = unflatten_like(template, read_tensors(tmp_path / "file"))
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    assert jax.random.key_impl(restored.key) == generator
    ours, theirs = flatten_tree(restored), flatten_tree(state)
    assert {n: (a.dtype, a.shape, a.tobytes()) for n, a in ours.items()} == {
        n: (a.dtype, a.shape, a.tobytes()) for n, a in theirs.items()
    }
    draws = [jax.random.bits(tree.key[1], (4,)).tolist() for tree in (restored, state)]
    assert draws[0] == draws[1]


@pytest.mark.parametrize(
    "value",
    [
        np.float32(0.1),
        np.array([np.nan, -0.0, np.inf, 1e-45], np.float32),
        np.int32(-(2**31)),
        np.bool_(True),
        np.array([np.nan, 3.14, -1e-30], ml_dtypes.bfloat16),
        np.array([0.5, -448.0], ml_dtypes.float8_e4m3fn),
        np.array([0.5, -1e-4], ml_dtypes.float8_e5m2),
        np.complex64(1 - 2j),
    ],
    ids=lambda value: str(value.dtype),
)
def test_a_device_array_becomes_its_own_bits(value: Any) -> None:
    flat = flatten_tree({"x": jnp.asarray(value)})
    assert flat["x"].dtype == value.dtype
    assert flat["x"].shape == value.shape
    assert flat["x"].tobytes() == np.asarray(value).tobytes()


@pytest.mark.parametrize("value", [True, -3, 0.1, 1 + 2j])
def test_python_numbers_stay_python_numbers(value: Any) -> None:
    restored = unflatten_like({"x": value}, flatten_tree({"x": value}))
    assert restored == {"x": value}
    assert type(restored["x"]) is type(value)


def test_a_donating_step_reuses_the_memory_and_leaves_the_snapshot_alone() -> None:
    state = {"w": jnp.arange(1 << 16, dtype=jnp.float32), "n": jnp.int32(1)}
    address = state["w"].unsafe_buffer_pointer()
    flat = flatten_tree(state)
    step = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    after = step(state)
    # Had the snapshot aliased the buffer, JAX would have had to copy it.
    assert state["w"].is_deleted()
    assert after["w"].unsafe_buffer_pointer() == address
    np.testing.assert_array_equal(flat["w"], np.arange(1 << 16, dtype=np.float32))
    assert flat["n"] == 1


def test_a_donating_step_cannot_reach_a_mapped_file(tmp_path: Path) -> None:
    # 32 names of one letter make the data start at a multiple of the memory's alignment or not;
    # placed on the CPU, JAX may use the map itself.
    arrays = {f"{i:02}": np.full(1024, i, np.float32) for i in range(32)}
    write_tensors(tmp_path / "file", arrays)
    before = (tmp_path / "file").read_bytes()
    placed = jax.device_put(read_tensors(tmp_path / "file"))
    step = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    after = step(placed)
    assert (tmp_path / "file").read_bytes() == before
    assert {name: float(array[0]) for name, array in after.items()} == {
        f"{i:02}": i + 1.0 for i in range(32)
    }


def test_sharded_and_replicated_arrays_are_gathered() -> None:
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    whole = np.arange(64, dtype=np.float32).reshape(8, 8)
    for spec in [("x", "y"), ("y", None), (None, "x"), (None, None)]:
        sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))
        flat = flatten_tree({"w": jax.device_put(whole, sharding)})
        np.testing.assert_array_equal(flat["w"], whole)


def tree_on_eight_devices() -> dict[str, jax.Array]:
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    specs = {"w": ("x", "y"), "column": (None, "x"), "row": ("y", None), "whole": (None, None)}
    shardings = {k: jax.sharding.NamedSharding(mesh, jax.P(*spec)) for k, spec in specs.items()}
    numbers = {name: np.arange(64, dtype=np.float32).reshape(8, 8) for name in specs}
    keys = jax.device_put(jax.random.split(jax.random.key(3), 8), shardings["w"].update(spec="x"))
    return jax.device_put(numbers, shardings) | {"keys": keys, "number": 3}


def assert_same(left: Mapping[str, Any], right: Mapping[str, np.ndarray]) -> None:
    assert list(left) == list(right)
    for name, array in right.items():
        found = np.asarray(left[name])
        assert (found.dtype, found.shape) == (array.dtype, array.shape)
        assert found.tobytes() == array.tobytes(), name


def test_one_process_holds_all_of_every_array() -> None:
    for tree in (make_state(), tree_on_eight_devices()):
        assert_same(flatten_own(tree), flatten_tree(tree))


def test_what_several_processes_hold_of_arrays_is_every_number_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As though the first three devices were one process's and five another's."""
    tree = tree_on_eight_devices()
    whole = flatten_tree(tree)
    kind, devices = type(tree["w"]), list(tree["w"].sharding.mesh.devices.flat)
    shards, own = kind.addressable_shards, []
    monkeypatch.setattr(kind, "is_fully_addressable", False)
    for process, span in enumerate((slice(0, 3), slice(3, 8))):
        here = set(devices[span])
        monkeypatch.setattr(
            kind,
            "addressable_shards",
            property(lambda a, here=here: [s for s in shards.__get__(a) if s.device in here]),
        )
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        own.append(flatten_own(tree))
    monkeypatch.undo()
    assert sorted(own[0]) == [
        "column[0:8,0:2 of 8,8]",
        "column[0:8,2:4 of 8,8]",
        "keys[0:2,0:2 of 8,2]",
        "keys[2:4,0:2 of 8,2]",
        "number",
        "row[0:4,0:8 of 8,8]",
        "row[4:8,0:8 of 8,8]",
        "w[0:2,0:4 of 8,8]",
        "w[0:2,4:8 of 8,8]",
        "w[2:4,0:4 of 8,8]",
        "whole",
    ]
    assert set(own[0]).isdisjoint(own[1])
    found = join_pieces(own[0] | own[1])
    assert_same({name: found[name] for name in whole}, whole)


def test_two_leaves_of_one_name_are_refused() -> None:
    tree = {"a": {"b/c": jnp.zeros(1)}, "a/b": {"c": jnp.ones(1)}}
    with pytest.raises(ValueError, match="two leaves of the tree are both named 'a/b/c'"):
        flatten_tree(tree)


TEMPLATE = {
    "w": jax.ShapeDtypeStruct((2, 3), jnp.float32),
    "b": jax.ShapeDtypeStruct((3,), jnp.bfloat16),
    "n": jax.ShapeDtypeStruct((), jnp.int32),
}
FITTING = {
    "w": np.zeros((2, 3), np.float32),
    "b": np.zeros(3, ml_dtypes.bfloat16),
    "n": np.array(0, np.int32),
}
SPARE = {f"x{i}": np.zeros(i, np.int8) for i in range(5)}


@pytest.mark.parametrize(
    ("flat", "finding"),
    [
        ({"w": FITTING["w"], "n": FITTING["n"]}, "1 missing (b bfloat16[3])"),
        (
            FITTING | SPARE,
            "5 unexpected (x0 int8[0], x1 int8[1], x2 int8[2] and 2 more)",
        ),
        (
            FITTING | {"w": np.zeros((3, 2), np.float32)},
            "1 of another shape or type (w is float32[3,2], expected float32[2,3])",
        ),
        (
            FITTING | {"n": np.zeros(1, np.int32), "b": np.zeros(3, np.float32)},
            "2 of another shape or type (b is float32[3], expected bfloat16[3], "
            "n is int32[1], expected int32[])",
        ),
        (
            {"c": FITTING["b"], "n": FITTING["n"]},
            "2 missing (b bfloat16[3], w float32[2,3]); 1 unexpected (c bfloat16[3])",
        ),
    ],
)
def test_what_does_not_fit_is_named(flat: dict[str, np.ndarray], finding: str) -> None:
    with pytest.raises(UserError) as error:
        unflatten_like(TEMPLATE, flat)
    assert str(error.value) == (
        f"the checkpoint's arrays do not fit this configuration: {finding}; "
        "use the config.yaml saved beside them"
    )


def test_a_key_of_another_generator_does_not_fit() -> None:
    flat = flatten_tree({"key": jax.random.key(0, impl="threefry2x32")})
    with pytest.raises(UserError, match=r"key is uint32\[2\], expected uint32\[4\]"):
        unflatten_like({"key": jax.random.key(0, impl="rbg")}, flat)
