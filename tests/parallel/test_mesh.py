"""Meshes, batches on them and hints inside modules."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from rtdlm.config import MeshConfig, UserError
from rtdlm.parallel import batch_sharding, check_batch, constrain, make_mesh, under


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (MeshConfig(), (8, 1, 1, 1)),
        (MeshConfig(fsdp=4), (2, 4, 1, 1)),
        (MeshConfig(data=1, fsdp=8), (1, 8, 1, 1)),
        (MeshConfig(tensor=8), (1, 1, 1, 8)),
        (MeshConfig(context=4), (2, 1, 4, 1)),
        (MeshConfig(data=2, fsdp=2, tensor=2), (2, 2, 1, 2)),
    ],
)
def test_axes_multiply_to_the_devices(config: MeshConfig, shape: tuple[int, ...]) -> None:
    mesh = make_mesh(config)
    assert mesh.axis_names == ("data", "fsdp", "context", "tensor")
    assert mesh.devices.shape == shape
    assert set(mesh.devices.flat) == set(jax.devices())


def test_a_laptop_is_a_mesh_of_one() -> None:
    assert make_mesh(MeshConfig(), jax.devices()[:1]).devices.shape == (1, 1, 1, 1)


@pytest.mark.parametrize(
    ("config", "axes"),
    [
        (MeshConfig(data=3), "data=3 x fsdp=1 x context=1 x tensor=1"),
        (MeshConfig(fsdp=3), "data=-1 x fsdp=3 x context=1 x tensor=1"),
        (MeshConfig(fsdp=4, tensor=4), "data=-1 x fsdp=4 x context=1 x tensor=4"),
        (MeshConfig(data=2, fsdp=2, tensor=1), "data=2 x fsdp=2 x context=1 x tensor=1"),
    ],
)
def test_a_mesh_that_does_not_fit_is_one_sentence(config: MeshConfig, axes: str) -> None:
    expected = f"mesh {axes} does not fit 8 devices; choose axes that multiply to 8"
    with pytest.raises(UserError, match=f"^{re.escape(expected)}$"):
        make_mesh(config)


def test_a_batch_splits_over_data_and_fsdp_and_repeats_over_tensor() -> None:
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    rows = jax.device_put(np.arange(8)[:, None], batch_sharding(mesh))
    pieces = {shard.device: shard.data.ravel().tolist() for shard in rows.addressable_shards}
    for (data, fsdp, _, _), device in np.ndenumerate(mesh.devices):
        first = 2 * (2 * data + fsdp)
        assert pieces[device] == [first, first + 1]


def test_the_tokens_of_a_row_split_over_context() -> None:
    mesh = make_mesh(MeshConfig(data=2, context=4))
    rows = jax.device_put(np.arange(16).reshape(2, 8), batch_sharding(mesh))
    pieces = {shard.device: shard.data.ravel().tolist() for shard in rows.addressable_shards}
    for (data, _, context, _), device in np.ndenumerate(mesh.devices):
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
    wanted = NamedSharding(mesh, PartitionSpec(("data", "fsdp"), "tensor"))
    assert y.sharding.is_equivalent_to(wanted, 2)
    np.testing.assert_array_equal(y, x)
