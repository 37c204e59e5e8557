"""Meshes, batches on them and hints inside modules."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from rtdlm.config import AGIConfig, MeshConfig, UserError
from rtdlm.parallel import batch_sharding, check_batch, constrain, make_mesh, mesh_of, under


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (MeshConfig(), (8, 1, 1, 1, 1)),
        (MeshConfig(fsdp=4), (2, 4, 1, 1, 1)),
        (MeshConfig(data=1, fsdp=8), (1, 8, 1, 1, 1)),
        (MeshConfig(tensor=8), (1, 1, 1, 1, 8)),
        (MeshConfig(context=4), (2, 1, 1, 4, 1)),
        (MeshConfig(data=2, fsdp=2, tensor=2), (2, 2, 1, 1, 2)),
        (MeshConfig(fsdp=2, expert=4), (1, 2, 4, 1, 1)),
    ],
)
def test_axes_multiply_to_the_devices(config: MeshConfig, shape: tuple[int, ...]) -> None:
    mesh = make_mesh(config)
    assert mesh.axis_names == ("data", "fsdp", "expert", "context", "tensor")
    assert mesh.devices.shape == shape
    assert set(mesh.devices.flat) == set(jax.devices())


def test_a_laptop_is_a_mesh_of_one() -> None:
    assert make_mesh(MeshConfig(), jax.devices()[:1]).devices.shape == (1, 1, 1, 1, 1)


@pytest.mark.parametrize(
    ("config", "axes"),
    [
        (MeshConfig(data=3), "data=3 x fsdp=1 x expert=1 x context=1 x tensor=1"),
        (MeshConfig(fsdp=3), "data=-1 x fsdp=3 x expert=1 x context=1 x tensor=1"),
        (MeshConfig(fsdp=4, tensor=4), "data=-1 x fsdp=4 x expert=1 x context=1 x tensor=4"),
        (MeshConfig(data=2, fsdp=2, tensor=1), "data=2 x fsdp=2 x expert=1 x context=1 x tensor=1"),
    ],
)
def test_a_mesh_that_does_not_fit_is_one_sentence(config: MeshConfig, axes: str) -> None:
    expected = f"mesh {axes} does not fit 8 devices; choose axes that multiply to 8"
    with pytest.raises(UserError, match=f"^{re.escape(expected)}$"):
        make_mesh(config)


def test_what_asks_for_more_devices_than_there_are_is_told_as_it_was_asked() -> None:
    asked = AGIConfig(mesh=MeshConfig(tensor=2))
    axes = "data=-1 x fsdp=1 x expert=1 x context=1 x tensor=2"
    with pytest.raises(UserError, match=f"^mesh {axes} does not fit 1 devices"):
        mesh_of(asked, jax.devices()[:1])


def test_a_batch_splits_over_data_and_fsdp_and_repeats_over_tensor() -> None:
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    rows = jax.device_put(np.arange(8)[:, None], batch_sharding(mesh))
    pieces = {shard.device: shard.data.ravel().tolist() for shard in rows.addressable_shards}
    for (data, fsdp, _, _, _), device in np.ndenumerate(mesh.devices):
        first = 2 * (2 * data + fsdp)
        assert pieces[device] == [first, first + 1]


def test_a_batch_splits_over_the_devices_that_have_experts_too() -> None:
    mesh = make_mesh(MeshConfig(fsdp=2, expert=4))
    rows = jax.device_put(np.arange(8)[:, None], batch_sharding(mesh))
    assert all(shard.data.size == 1 for shard in rows.addressable_shards)
    expected = "data x fsdp x expert = 8 devices; make batch_size / accumulate_steps a multiple of"
    with pytest.raises(UserError, match=expected):
        check_batch(mesh, rows=6)


STRATEGIES = [
    ({"strategy": "pmap"}, (8, 1, 1)),
    ({"strategy": "data"}, (8, 1, 1)),
    ({"strategy": "zero1"}, (1, 8, 1)),
    ({"strategy": "zero2"}, (1, 8, 1)),
    ({"strategy": "fsdp"}, (1, 8, 1)),
    ({"strategy": "fsdp", "fsdp": 4}, (2, 4, 1)),
    ({"strategy": "fsdp", "tensor": 2}, (1, 4, 2)),
    ({"strategy": "tensor"}, (1, 1, 8)),
    ({"strategy": "tensor", "tensor": 4}, (2, 1, 4)),
    ({"strategy": "combined"}, (2, 1, 4)),
    ({"strategy": "combined", "tensor": 2}, (4, 1, 2)),
]


@pytest.mark.parametrize(("mesh", "shape"), STRATEGIES, ids=str)
def test_a_strategy_takes_the_devices_that_are_left(
    mesh: dict[str, Any], shape: tuple[int, ...]
) -> None:
    config = AGIConfig(num_heads=8, num_kv_heads=4, mesh=MeshConfig(**mesh))
    found = mesh_of(config).shape
    assert (found["data"], found["fsdp"], found["tensor"]) == shape
    if set(mesh) == {"strategy"}:
        assert mesh_of(config, jax.devices()[:1]).size == 1, "a laptop has any strategy"


@pytest.mark.parametrize(
    ("data", "tensor", "strategy", "shape"),
    [
        (True, False, "data", (8, 1)),
        (False, True, "tensor", (1, 8)),
        (True, True, "combined", (4, 2)),
        (False, False, None, (8, 1)),
    ],
)
def test_two_switches_are_short_for_strategies(
    data: bool, tensor: bool, strategy: str | None, shape: tuple[int, int]
) -> None:
    config = AGIConfig(distributed_training=data, tensor_parallel=tensor)
    assert config.mesh_strategy == strategy
    assert (mesh_of(config).shape["data"], mesh_of(config).shape["tensor"]) == shape


EXPERTS = {"num_experts": 6}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"mesh": {"strategy": "data", "fsdp": 2}},
            "mesh.fsdp=2 has no effect with mesh.strategy='data', which splits no parameters; use "
            "mesh.strategy=fsdp or remove mesh.fsdp",
        ),
        (
            {"mesh": {"strategy": "pmap", "tensor": 2}},
            "mesh.strategy='pmap' cannot be combined with mesh.tensor=2: it arranges all devices "
            "itself; remove one of them",
        ),
        (
            {"mesh": {"strategy": "fsdp"}, "tensor_parallel": True},
            "tensor_parallel=True and mesh.strategy='fsdp' both arrange the devices; keep one",
        ),
        (
            {"mesh": {"fsdp": 2}, "distributed_training": True},
            "mesh.fsdp=2 has no effect with distributed_training=True, which splits no parameters; "
            "use mesh.strategy=fsdp alone",
        ),
        (
            {"mesh": {"expert": 2}},
            "mesh.expert=2 has no effect with experts.num_experts=0; set experts.num_experts or "
            "remove mesh.expert",
        ),
        (
            {"mesh": {"expert": 4}, "experts": EXPERTS},
            "experts.num_experts=6 does not split over mesh.expert=4 devices; use a multiple of 4",
        ),
        (
            {"mesh": {"expert": 2}, "experts": {**EXPERTS, "dispatch": "dropless"}},
            "mesh.expert=2 cannot be combined with experts.dispatch='dropless' yet: what travels "
            "to another device must be bounded; use experts.dispatch=capacity",
        ),
        (
            {"mesh": {"strategy": "pmap"}, "experts": EXPERTS},
            "mesh.strategy='pmap' cannot be combined with experts.num_experts: its losses are no "
            "sums over rows; use mesh.strategy=data",
        ),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_one_sentence(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        AGIConfig.from_dict(options)


def test_the_tokens_of_a_row_split_over_context() -> None:
    mesh = make_mesh(MeshConfig(data=2, context=4))
    rows = jax.device_put(np.arange(16).reshape(2, 8), batch_sharding(mesh))
    pieces = {shard.device: shard.data.ravel().tolist() for shard in rows.addressable_shards}
    for (data, _, _, context, _), device in np.ndenumerate(mesh.devices):
        first = 8 * data + 2 * context
        assert pieces[device] == [first, first + 1]


def test_a_batch_that_does_not_split_is_one_sentence() -> None:
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    check_batch(mesh, rows=12)
    expected = (
        "a micro-batch of 6 rows does not split over the mesh's data x fsdp = 4 devices; make "
        "batch_size / accumulate_steps a multiple of 4"
    )
    with pytest.raises(UserError, match=f"^{re.escape(expected)}$"):
        check_batch(mesh, rows=6)


def hinted(x: jax.Array) -> jax.Array:
    return constrain(x * 1.0, "batch", "tensor")


def test_a_hint_is_the_identity_without_a_mesh_and_on_one_device() -> None:
    x = jnp.ones((8, 4))
    assert constrain(x, "batch", None) is x
    alone = under(make_mesh(MeshConfig(), jax.devices()[:1]), lambda x: constrain(x, "batch", None))
    assert alone(x) is x


def test_a_hint_under_a_mesh_places_the_array() -> None:
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    x = jnp.arange(32.0).reshape(8, 4)
    y = under(mesh, jax.jit(hinted))(x)
    wanted = NamedSharding(mesh, PartitionSpec(("data", "fsdp", "expert"), "tensor"))
    assert y.sharding.is_equivalent_to(wanted, 2)
    np.testing.assert_array_equal(y, x)
