"""Attention against a loop over heads and queries, and the masks as tables."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.modules.attention import (
    GroupedQueryAttention,
    KVCache,
    Rows,
    cache_mask,
    causal_mask,
    rotate,
    rotation,
)
from rtdlm.modules.attention.dot_product import attend
from rtdlm.modules.primitives import RMSNorm
from tests.modules import reference

T, D, H, E = 7, 12, 4, 6


def test_causal_mask_is_this_table() -> None:
    mask = causal_mask(jnp.array([[1, 1, 2, 2, 0]]))[0].astype(int)
    assert mask.tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 0, 0, 0, 1],
    ]


def test_cache_mask_is_this_table() -> None:
    mask = cache_mask(jnp.array([[0, 1], [2, 3]]), slots=4).astype(int)
    assert mask.tolist() == [
        [[1, 0, 0, 0], [1, 1, 0, 0]],
        [[1, 1, 1, 0], [1, 1, 1, 1]],
    ]


def test_cache_keeps_each_row_at_its_own_positions_and_drops_what_is_beyond() -> None:
    cache = KVCache.empty(2, 3, 1, 1)
    new = jnp.arange(1.0, 5.0).reshape(2, 2, 1, 1)
    cache = cache.write(new, -new, jnp.array([[0, 1], [2, 3]]))
    assert cache.key_BSKE[..., 0, 0].tolist() == [[1, 2, 0], [0, 0, 3]]
    assert cache.value_BSKE[..., 0, 0].tolist() == [[-1, -2, 0], [0, 0, -3]]


@pytest.mark.parametrize("positions", [(0, 2), (2, 0), (1, 1), (2, 3), (7, 0)], ids=str)
def test_one_token_a_row_is_written_like_several(positions: tuple[int, int]) -> None:
    """One token takes another path on a CPU; a slot that there is not is dropped on both."""
    rng = np.random.default_rng(6)
    old = KVCache(
        *(jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((2, 2, 4, 3), (2, 2, 3, 4)))
    )
    key, value = (jnp.asarray(rng.normal(size=(2, 1, 2, 4)), jnp.float32) for _ in range(2))
    new = jax.jit(KVCache.write)(old, key, value, jnp.array(positions)[:, None])
    keys, values = np.array(old.key_BSKE), np.array(old.value_BSKE)
    for row, slot in enumerate(positions):
        if slot < 3:
            keys[row, slot], values[row, slot] = key[row, 0], value[row, 0]
    np.testing.assert_array_equal(new.key_BSKE, keys)
    np.testing.assert_array_equal(new.value_BSKE, values)


def test_rotation_matches_the_planes_turned_one_by_one() -> None:
    x = np.random.default_rng(0).normal(size=(1, T, 2, E)).astype(np.float32)
    positions = np.array([[0, 1, 2, 0, 1, 300, 4000]])
    turned = rotate(jnp.asarray(x), rotation(jnp.asarray(positions), head_dim=E, base=10_000.0))
    for t in range(T):
        for head in range(2):
            expected = reference.rotate(x[0, t, head].astype(np.float64), positions[0, t], 1e4)
            np.testing.assert_allclose(turned[0, t, head], expected, atol=3e-4)


def test_rotated_products_depend_on_the_distance_alone() -> None:
    rng = np.random.default_rng(1)
    query, key = (jnp.asarray(rng.normal(size=(1, 1, 1, E)), jnp.float32) for _ in range(2))

    def product(q_position: int, k_position: int) -> float:
        def at(x: jax.Array, position: int) -> jax.Array:
            return rotate(x, rotation(jnp.array([[position]]), head_dim=E, base=100.0))

        return float(jnp.sum(at(query, q_position) * at(key, k_position)))

    assert product(9, 4) == pytest.approx(product(105, 100), abs=1e-5)
    assert abs(product(9, 4) - product(9, 5)) > 1e-3


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("base", [None, 50.0])
def test_equals_a_loop_over_heads_and_queries(
    kv_heads: int, qk_norm: bool, base: float | None
) -> None:
    segments = np.array([[1, 1, 1, 2, 2, 2, 2], [1, 1, 1, 1, 1, 1, 1]])
    positions = np.array([[0, 1, 2, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5, 6]])
    x = np.random.default_rng(2).normal(size=(2, T, D)).astype(np.float32)
    turn = None if base is None else rotation(jnp.asarray(positions), head_dim=E, base=base)

    def forward(x_BTD: jax.Array) -> jax.Array:
        module = GroupedQueryAttention(
            num_heads=H,
            num_kv_heads=kv_heads,
            head_dim=E,
            head_norm=(lambda name: RMSNorm(name=name)) if qk_norm else None,
            out_scale=1.0,
        )
        read = module(
            x_BTD,
            rows=Rows(jnp.asarray(positions), causal_mask(jnp.asarray(segments))),
            turn=turn,
            cache=None,
        )
        assert read.cache is None and read.first_BTKE is None
        return read.out_BTD

    transformed = hk.without_apply_rng(hk.transform(forward))
    shapes = jax.eval_shape(transformed.init, jax.random.key(0), jnp.asarray(x))
    rng = np.random.default_rng(3)
    params = jax.tree.map(lambda p: jnp.asarray(0.5 * rng.normal(size=p.shape), p.dtype), shapes)
    weights = {
        path.removeprefix("attention/"): np.asarray(next(iter(leaf.values())), np.float64)
        for path, leaf in params.items()
    }
    actual = jax.jit(transformed.apply)(params, jnp.asarray(x))
    for row in range(2):
        expected, _ = reference.attention(
            x[row].astype(np.float64),
            weights,
            segments=segments[row],
            positions=positions[row],
            base=base,
        )
        np.testing.assert_allclose(actual[row], expected, rtol=2e-4, atol=2e-5)


def test_attend_equals_the_librarys() -> None:
    rng = np.random.default_rng(4)
    query = jnp.asarray(rng.normal(size=(2, 5, 6, 8)), jnp.float32)
    key, value = (jnp.asarray(rng.normal(size=(2, 9, 3, 8)), jnp.float32) for _ in range(2))
    mask = jnp.asarray(rng.random((2, 5, 9)) < 0.5).at[:, :, 0].set(True)
    expected = jax.nn.dot_product_attention(query, key, value, mask=mask[:, None])
    np.testing.assert_allclose(jax.jit(attend)(query, key, value, mask), expected, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_stays_near_and_keeps_its_dtype(dtype: jnp.dtype) -> None:
    rng = np.random.default_rng(5)
    arrays = [jnp.asarray(rng.normal(size=(1, 9, 2, 8)), jnp.float32) for _ in range(3)]
    mask = causal_mask(jnp.ones((1, 9), jnp.int32))
    exact = jax.jit(attend)(*arrays, mask)
    rough = jax.jit(attend)(*(array.astype(dtype) for array in arrays), mask)
    assert rough.dtype == dtype
    np.testing.assert_allclose(rough.astype(jnp.float32), exact, atol=3e-2)
