"""Product keys against a search through all values, and the layer against its formula."""

from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.config import KnowledgeConfig
from rtdlm.modules.knowledge import ProductKeyMemory, best_pairs, weighted_rows

CONFIG = KnowledgeConfig(kind="product_key", rows=7, heads=3, top_k=4, key_dim=10, dim=6)


@pytest.mark.parametrize(
    ("rows", "top_k"), [(2, 2), (5, 5), (9, 2), (9, 9), (16, 7), (40, 32)], ids=str
)
def test_the_best_pairs_are_those_of_a_search_through_all(rows: int, top_k: int) -> None:
    score = np.random.default_rng(rows * top_k).normal(size=(2, 3, 2, 2, rows)).astype(np.float32)
    all_pairs = (score[..., 0, :, None] + score[..., 1, None, :]).reshape(2, 3, 2, rows**2)
    order = np.argsort(-all_pairs, axis=-1)[..., :top_k]
    found = jax.jit(best_pairs, static_argnames="top_k")(jnp.asarray(score), top_k=top_k)
    assert found.row_BTHK.dtype == jnp.int32
    np.testing.assert_array_equal(found.row_BTHK, order)
    np.testing.assert_array_equal(found.score_BTHK, np.take_along_axis(all_pairs, order, -1))


def test_only_the_chosen_scores_have_a_slope() -> None:
    score = jnp.asarray(np.random.default_rng(1).normal(size=(1, 1, 1, 2, 8)), jnp.float32)
    weight_K = jnp.array([1.0, 2.0, 4.0])

    def total(score: jax.Array) -> jax.Array:
        return jnp.sum(best_pairs(score, top_k=3).score_BTHK[0, 0, 0] * weight_K)

    slope_GR = np.asarray(jax.grad(total)(score))[0, 0, 0]
    expected = np.zeros((2, 8))
    for weight, row in zip(weight_K, best_pairs(score, top_k=3).row_BTHK[0, 0, 0], strict=True):
        expected[0, int(row) // 8] += weight
        expected[1, int(row) % 8] += weight
    np.testing.assert_array_equal(slope_GR, expected)


def test_rows_are_summed_by_weight_and_so_are_their_slopes() -> None:
    rng = np.random.default_rng(2)
    values, weight = rng.normal(size=(9, 5)), rng.normal(size=(2, 3, 2, 4))
    row = rng.integers(9, size=weight.shape)
    up = rng.normal(size=(2, 3, 5))
    expected, slope = np.zeros_like(up), np.zeros_like(values)
    for place in np.ndindex(weight.shape):
        expected[place[:2]] += weight[place] * values[row[place]]
        slope[row[place]] += weight[place] * up[place[:2]]
    given = (jnp.asarray(values, jnp.float32), jnp.asarray(row), jnp.asarray(weight, jnp.float32))
    found, back = jax.vjp(lambda v, w: weighted_rows(v, given[1], w), given[0], given[2])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    slopes = back(jnp.asarray(up, jnp.float32))
    np.testing.assert_allclose(slopes[0], slope, atol=1e-5)
    np.testing.assert_allclose(slopes[1], np.einsum("btv,bthkv->bthk", up, values[row]), atol=1e-5)


def layer() -> tuple[Any, Any, jax.Array]:
    run = hk.without_apply_rng(hk.transform(lambda x: ProductKeyMemory(CONFIG, out_scale=1.0)(x)))
    x = jnp.asarray(np.random.default_rng(3).normal(size=(2, 5, 8)), jnp.float32)
    return run, jax.jit(run.init)(jax.random.key(0), x), x


def softmax(x: np.ndarray) -> np.ndarray:
    share = np.exp(x - x.max())
    return share / share.sum()


def test_the_layer_is_its_formula() -> None:
    """Token by token, head by head, through all 49 values."""
    run, params, x = layer()
    w = {path: np.asarray(leaf, np.float64) for path, leaf in flat(params).items()}
    expected = np.zeros(x.shape)
    for place in np.ndindex(x.shape[:2]):
        token, read = np.asarray(x[place], np.float64), np.zeros(6)
        for head in range(3):
            query = np.einsum("d,dge->ge", token, w["query/w"][:, head])
            query /= np.sqrt((query**2).mean(-1, keepdims=True) + 1e-6)
            score = np.einsum("ge,gre->gr", query * w["query_norm/scale"], w["keys"][head])
            pairs = (score[0][:, None] + score[1]).ravel()
            best = np.argsort(-pairs)[:4]
            read += softmax(pairs[best]) @ w["values"][best]
        gate = token @ w["gate/w"]
        expected[place] = (gate / (1 + np.exp(-gate)) * read) @ w["output/w"]
    np.testing.assert_allclose(jax.jit(run.apply)(params, x), expected, atol=1e-5)


def test_it_starts_with_these_shapes_and_spreads() -> None:
    leaves = flat(layer()[1])
    assert {path: leaf.shape for path, leaf in leaves.items()} == {
        "query/w": (8, 3, 2, 5), "query_norm/scale": (5,), "keys": (3, 2, 7, 5),
        "values": (49, 6), "gate/w": (8, 6), "output/w": (6, 8),
    }  # fmt: skip
    assert np.std(leaves["keys"]) == pytest.approx(5**-0.5, rel=0.15)
    assert np.std(leaves["values"]) == pytest.approx(6**-0.5, rel=0.15)


def flat(params: Any) -> dict[str, jax.Array]:
    return {
        f"{module}/{name}".removeprefix("knowledge/"): leaf
        for module, leaves in params.items()
        for name, leaf in leaves.items()
    }
