"""Every kind of attention in a model: on a mesh, in bfloat16, and what it keeps in decoding."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.config import MeshConfig
from rtdlm.models import TMSModel
from rtdlm.modules.attention import KINDS as REGISTERED
from rtdlm.parallel import make_mesh, partition_spec, path_name
from tests.models import test_decode, test_masking
from tests.models.small import KINDS, random_params, small_config
from tests.training.runs import flat

IDS = np.random.default_rng(4).integers(64, size=(4, 12), dtype=np.int32)


@cache
def one_layer(kind: str) -> tuple[TMSModel, Any, np.ndarray]:
    """A model, its parameters and its logits on one device in float32."""
    model = TMSModel(small_config(num_layers=1, **KINDS[kind]))
    params = random_params(model)
    return model, params, np.asarray(jax.jit(model.logits)(params, IDS))


@pytest.mark.parametrize(
    ("kind", "sizes"),
    # Two heads of keys and values on four devices, and once on two.
    [
        ("gqa", {"fsdp": 2, "tensor": 2}),
        *((kind, {"tensor": 4}) for kind in KINDS if kind != "ring"),
    ],
    ids=str,
)
def test_eight_devices_equal_one(kind: str, sizes: dict[str, int]) -> None:
    """Of `ring`, whose context axis is another: tests/modules/attention/test_ring_attention.py."""
    model, params, expected = one_layer(kind)

    def loss(params: Any, ids_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits_BTV = model.logits(params, ids_BT)
        log_p_BTV = jax.nn.log_softmax(logits_BTV[:, :-1])
        return -jnp.mean(jnp.take_along_axis(log_p_BTV, ids_BT[:, 1:, None], -1)), logits_BTV

    slope = jax.grad(loss, has_aux=True)
    expected_slope, _ = jax.jit(slope)(params, IDS)
    mesh = make_mesh(MeshConfig(data=2, **sizes))

    def place(path: Any, x: jax.Array) -> jax.Array:
        spec = partition_spec(path_name(path), x.shape, mesh)
        return jax.device_put(x, jax.sharding.NamedSharding(mesh, spec))

    placed = jax.tree_util.tree_map_with_path(place, params)
    rows = jax.sharding.PartitionSpec(("data", "fsdp"))
    with jax.set_mesh(mesh):
        found_slope, found = jax.jit(slope)(placed, jax.device_put(IDS, rows))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    by_path = flat(found_slope)
    for path, leaf in flat(expected_slope).items():
        atol = 1e-5 * max(float(np.abs(leaf).max()), 0.01)
        np.testing.assert_allclose(by_path[path], leaf, atol=atol, rtol=0, err_msg=path)


# A bound on the largest difference, in standard deviations of the logits; a state's rounding adds
# up.
ROUNDING = {"delta": 0.12}


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_is_within_its_bound(kind: str) -> None:
    model, params, expected = one_layer(kind)
    half = TMSModel(model.config, precision={"compute": "bfloat16"})
    found = np.asarray(jax.jit(half.logits)(params, IDS), np.float32)
    error = np.abs(found - expected).max() / expected.std()
    assert 0 < error < ROUNDING.get(kind, 0.08)


@pytest.mark.parametrize("kind", ["linear", "delta"])
def test_a_state_does_not_grow_with_the_row(kind: str) -> None:
    model, _, _ = one_layer(kind)

    def numbers(slots: int) -> int:
        kept = jax.eval_shape(lambda: model.empty_cache(1, slots)).loops[0][0].kv
        return sum(leaf.size for leaf in jax.tree.leaves(kept))

    assert numbers(8) == numbers(8192) > 0
    model, _, _ = one_layer("gqa")
    assert numbers(8192) == 1024 * numbers(8)


# What is elsewhere: decoding of `sliding` in test_sliding.py.
@pytest.mark.parametrize(
    ("forms", "elsewhere"),
    [(KINDS, set()), (test_masking.FORMS, set()), (test_decode.FORMS, {"sliding"})],
    ids=["kinds", "masking", "decode"],
)
def test_every_type_is_among_the_forms(forms: dict[str, Any], elsewhere: set[str]) -> None:
    types = {small_config(**form).attention_type for form in forms.values()}
    assert types | elsewhere == set(REGISTERED)
