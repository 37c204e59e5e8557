"""Attention and its written-out gradient against float64 NumPy, below, at and above a block."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.modules.attention import causal_mask
from rtdlm.modules.attention.alibi import Places, alibi_slopes
from rtdlm.modules.attention.dot_product import (
    MAX_BLOCKS,
    QUERY_BLOCK,
    attend,
    attend_causally,
)
from rtdlm.modules.attention.scoring import Scoring
from rtdlm.training.planning.program import FOR_MEMORY

E = 4
LONG = MAX_BLOCKS * QUERY_BLOCK + 7
Arrays = tuple[np.ndarray, ...]


def case(length: int, kv_heads: int = 2, group: int = 2, seed: int = 0) -> tuple[Arrays, Any]:
    """Query, key, value and the result's slope, for two rows of documents and padding; a mask."""
    rng = np.random.default_rng(seed)
    heads = kv_heads * group
    shapes = [(2, length, n, E) for n in (heads, kv_heads, kv_heads, heads)]
    segments = np.sort(rng.integers(1, 4, size=(2, length)), axis=1)
    segments[1, length - length // 4 :] = 0
    mask = causal_mask(jnp.asarray(segments))
    return tuple(rng.normal(size=s).astype(np.float32) for s in shapes), mask


def loops(
    query: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    dy: np.ndarray,
    mask: Any,
    scale: float = E**-0.5,
    cap: float | None = None,
    slopes: tuple[float, ...] | None = None,
    positions: Any = None,
) -> Arrays:
    """What is read and the three gradients, head by head with whole softmax matrices."""
    query, key, value, dy = (array.astype(np.float64) for array in (query, key, value, dy))
    y, dq, dk, dv = (np.zeros_like(array) for array in (query, query, key, value))
    group = query.shape[2] // key.shape[2]
    for row, head in np.ndindex(query.shape[0], query.shape[2]):
        here, shared = (row, slice(None), head), (row, slice(None), head // group)
        scores, slope = scale * query[here] @ key[shared].T, np.array(1.0)
        if cap is not None:
            slope = 1 - np.tanh(scores / cap) ** 2
            scores = cap * np.tanh(scores / cap)
        if slopes is not None:
            scores = scores - slopes[head] * (positions[row][:, None] - positions[row][None])
        scores = np.where(mask[row], scores, -np.inf)
        p = np.exp(scores - scores.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        y[here] = p @ value[shared]
        dv[shared] += p.T @ dy[here]
        dp = dy[here] @ value[shared].T
        ds = scale * slope * p * (dp - (dp * p).sum(-1, keepdims=True))
        dq[here] = ds @ key[shared]
        dk[shared] += ds.T @ query[here]
    return y, dq, dk, dv


@jax.jit
def ours(query: Any, key: Any, value: Any, dy: Any, mask: Any) -> tuple[jax.Array, ...]:
    y, back = jax.vjp(lambda *given: attend_causally(*given, mask), query, key, value)
    return y, *back(dy)


@pytest.mark.parametrize(
    ("length", "kv_heads", "group"),
    [
        (1, 2, 2), (5, 1, 4), (5, 4, 1), (127, 2, 2), (128, 1, 2), (129, 2, 1), (300, 1, 4),
        (LONG, 1, 2),
    ],
)  # fmt: skip
def test_values_and_gradients_equal_loops(length: int, kv_heads: int, group: int) -> None:
    arrays, mask = case(length, kv_heads, group)
    expected = loops(*arrays, np.asarray(mask))
    for got, wanted in zip(ours(*arrays, mask), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_the_gradient_keeps_keys_and_values_once() -> None:
    length, heads = 1024, 2

    def kept(query: Any, key: Any, value: Any) -> Any:
        mask = jnp.tril(jnp.ones((1, length, length), bool))
        return jax.vjp(lambda *given: attend_causally(*given, mask), query, key, value)[1]

    given = [jax.ShapeDtypeStruct((1, length, heads, 8), jnp.float32)] * 3
    leaves = jax.tree.leaves(jax.eval_shape(kept, *given))
    narrow = sum(leaf.size for leaf in leaves if leaf.shape[-1:] == (8,))
    assert narrow == 4 * length * heads * 8  # queries, keys, values and what was read


def test_the_gradient_is_made_block_by_block() -> None:
    length, heads = 1024, 2

    def gradient(query: Any, key: Any, value: Any, dy: Any) -> Any:
        mask = jnp.tril(jnp.ones((1, length, length), bool))
        return jax.vjp(lambda *given: attend_causally(*given, mask), query, key, value)[1](dy)

    given = [jax.ShapeDtypeStruct((1, length, heads, 8), jnp.float32)] * 4
    compiled = jax.jit(gradient).lower(*given).compile(compiler_options=FOR_MEMORY)
    weights = (
        4 * heads * sum(QUERY_BLOCK * seen for seen in range(QUERY_BLOCK, length + 1, QUERY_BLOCK))
    )
    # All blocks' weights and the gradients of all scores would be twice that.
    assert compiled.memory_analysis().temp_size_in_bytes < 0.75 * weights


@pytest.mark.parametrize("slopes", [None, (0.5, 0.02, 0.1, 0.0)], ids=str)
@pytest.mark.parametrize("length", [5, 129])
def test_scores_are_scaled_bounded_and_lowered_as_asked(length: int, slopes: Any) -> None:
    (*arrays, dy), mask = case(length)
    scoring = Scoring(scale=0.9, soft_cap=1.5, slopes_H=slopes)
    # Positions, and not places in the row, say how far a key is.
    positions = np.arange(length)[None] * np.array([[1], [3]])
    places = Places(jnp.asarray(positions), jnp.asarray(positions))

    def run(*given: Any) -> tuple[jax.Array, ...]:
        y, back = jax.vjp(lambda *x: attend_causally(*x, mask, scoring, places), *given)
        return y, *back(dy)

    expected = loops(
        *arrays, dy, np.asarray(mask), scale=0.9, cap=1.5, slopes=slopes, positions=positions
    )
    for got, wanted in zip(jax.jit(run)(*arrays), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
    decoded = jax.jit(lambda *x: attend(*x, mask, scoring, places))(*arrays)
    np.testing.assert_allclose(decoded, expected[0], atol=1e-5)


@pytest.mark.parametrize(
    ("heads", "slopes"),
    [
        (1, (2**-8,)),
        (4, (2**-2, 2**-4, 2**-6, 2**-8)),
        (8, tuple(2.0**-h for h in range(1, 9))),
        # Those of two heads, then the first of four.
        (3, (2**-4, 2**-8, 2**-2)),
        (6, (2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3)),
    ],
)
def test_slopes_are_this_table(heads: int, slopes: tuple[float, ...]) -> None:
    assert alibi_slopes(heads) == slopes


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("length", [3, 129])
@pytest.mark.parametrize(("kv_heads", "group"), [(1, 3), (3, 1)])
def test_half_precision_is_as_near_as_its_format(
    dtype: str, length: int, kv_heads: int, group: int
) -> None:
    """Weights, slopes and results are each rounded: five roundings of the largest number."""
    arrays, mask = case(length, kv_heads, group)
    rounded = tuple(jnp.asarray(array, dtype) for array in arrays)
    expected = loops(*(np.asarray(array, np.float64) for array in rounded), np.asarray(mask))
    for got, wanted in zip(ours(*rounded, mask), expected, strict=True):
        assert got.dtype == dtype
        error = np.abs(np.asarray(got, np.float64) - wanted).max()
        assert error < 5 * float(jnp.finfo(dtype).eps) / 2 * np.abs(wanted).max()


@pytest.mark.parametrize("length", [7, 128, 200])
def test_what_training_reads_is_what_decoding_reads(length: int) -> None:
    (*arrays, _), mask = case(length)
    np.testing.assert_allclose(
        jax.jit(attend_causally)(*arrays, mask), jax.jit(attend)(*arrays, mask), atol=1e-6
    )


@pytest.mark.parametrize("cut", [1, 127, 128, 150])
def test_the_future_changes_nothing_bitwise(cut: int) -> None:
    """Nor do keys and values after the last position that the loss sees get any gradient."""
    length = 200
    arrays, _ = case(length)
    mask = causal_mask(jnp.ones((2, length), jnp.int32))
    other, _ = case(length, seed=1)
    changed = tuple(
        np.concatenate([a[:, :cut], b[:, cut:]], 1) for a, b in zip(arrays, other, strict=True)
    )
    past = np.concatenate([arrays[3][:, :cut], np.zeros_like(arrays[3][:, cut:])], 1)
    one, two = ours(*arrays[:3], past, mask), ours(*changed[:3], past, mask)
    for got, expected in zip(one, two, strict=True):
        np.testing.assert_array_equal(got[:, :cut], expected[:, :cut])
    for gradient in (*one[1:], *two[1:]):
        assert not np.asarray(gradient[:, cut:]).any()
    assert not np.array_equal(one[0][:, cut:], two[0][:, cut:])


def test_it_can_be_mapped_and_scanned() -> None:
    """In the layouts that `jax.vmap` and a loop of one round make, of small products too."""
    arrays, mask = case(3, kv_heads=1, group=2)
    expected = ours(*arrays, mask)
    stacked = [jnp.stack([array, array]) for array in arrays]
    mapped = jax.jit(jax.vmap(lambda *given: ours(*given, mask)))(*stacked)
    _, scanned = jax.jit(
        lambda *given: jax.lax.scan(lambda _, one: (None, ours(*one, mask)), None, given)
    )(*(array[:1] for array in stacked))
    for got, once, wanted in zip(mapped, scanned, expected, strict=True):
        np.testing.assert_allclose(got[1], wanted, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(once[0], wanted, rtol=1e-5, atol=1e-6)
