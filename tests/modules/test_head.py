"""Per-token statistics against float64 NumPy, by chunks and at once, values and gradients."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from rtdlm.modules.head import TokenStatistics, logits, soft_cap, token_statistics
from tests.modules import reference

B, T, D, V = 2, 11, 6, 23
DIFFERENTIABLE = ("nll", "log_partition", "mean_logit")
STILL = ("top1", "top5", "entropy")


@pytest.fixture(scope="module")
def data() -> tuple[jax.Array, jax.Array, jax.Array]:
    """Features, a table and labels of all ranks: every third the first choice, or among five."""
    rng = np.random.default_rng(0)
    x, table = rng.normal(size=(B, T, D)), 2 * rng.normal(size=(V, D))
    order = np.argsort(-(x @ table.T), axis=-1)
    rank = np.stack([np.zeros(B * T), rng.integers(1, 5, B * T), rng.integers(V, size=B * T)], -1)
    rank = rank[np.arange(B * T), np.arange(B * T) % 3].astype(int).reshape(B, T, 1)
    labels = np.take_along_axis(order, rank, axis=-1)[..., 0]
    return (
        jnp.asarray(x, jnp.float32),
        jnp.asarray(table, jnp.float32),
        jnp.asarray(labels, jnp.int32),
    )


@pytest.mark.parametrize("cap", [None, 1.5])
def test_statistics_equal_numpy_in_float64(
    data: tuple[jax.Array, jax.Array, jax.Array], cap: float | None
) -> None:
    x_BTD, table_VD, labels_BT = data
    actual = token_statistics(*data, cap=cap, chunk_size=4)
    raw = np.asarray(x_BTD, np.float64) @ np.asarray(table_VD, np.float64).T
    exact = raw if cap is None else cap * np.tanh(raw / cap)
    np.testing.assert_allclose(actual.log_partition, logsumexp(exact, axis=-1), rtol=1e-6)
    for row, t in np.ndindex(B, T):
        expected = reference.token_statistics(exact[row, t], int(labels_BT[row, t]))
        for name, value in expected.items():
            got = float(getattr(actual, name)[row, t])
            assert got == pytest.approx(value, rel=1e-5, abs=1e-6), (name, row, t)
    assert 0 < actual.top1.sum() < actual.top5.sum() < B * T, "the case says something"


def weighted(chunk_size: int, cap: float | None = 1.5) -> Callable[..., jax.Array]:
    """A sum over all differentiable statistics in which no two tokens weigh the same."""
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(3, B, T)), jnp.float32)

    def total(x_BTD: jax.Array, table_VD: jax.Array, labels_BT: jax.Array) -> jax.Array:
        each = token_statistics(x_BTD, table_VD, labels_BT, cap=cap, chunk_size=chunk_size)
        return sum(
            jnp.sum(getattr(each, name) * weight)
            for name, weight in zip(DIFFERENTIABLE, weights, strict=True)
        )

    return total


@pytest.mark.parametrize("chunk_size", [1, 4, 10, 11, 50])
def test_any_chunk_size_gives_the_same_values(
    data: tuple[jax.Array, jax.Array, jax.Array], chunk_size: int
) -> None:
    whole = token_statistics(*data, cap=None, chunk_size=T)
    parts = jax.jit(partial(token_statistics, cap=None, chunk_size=chunk_size))(*data)
    for name in TokenStatistics._fields:
        got, expected = getattr(parts, name), getattr(whole, name)
        assert got.shape == (B, T) and got.dtype == jnp.float32
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("chunk_size", [4, T])
def test_gradients_equal_finite_differences_in_float64(
    data: tuple[jax.Array, jax.Array, jax.Array], chunk_size: int
) -> None:
    x_BTD, table_VD, labels_BT = data
    gradients = jax.jit(jax.grad(weighted(chunk_size), argnums=(0, 1)))(*data)
    weights = np.random.default_rng(1).normal(size=(3, B, T)).astype(np.float32).astype(np.float64)
    labels = np.asarray(labels_BT)

    def exact(x: np.ndarray, table: np.ndarray) -> float:
        scores = 1.5 * np.tanh(x @ table.T / 1.5)
        partition = logsumexp(scores, axis=-1)
        nll = partition - np.take_along_axis(scores, labels[..., None], -1)[..., 0]
        parts = (nll, partition, scores.mean(-1))
        return float(
            sum((part * weight).sum() for part, weight in zip(parts, weights, strict=True))
        )

    point = [np.asarray(x_BTD, np.float64), np.asarray(table_VD, np.float64)]
    for which, gradient in enumerate(map(np.asarray, gradients)):
        for index in np.ndindex(gradient.shape):
            ends = []
            for step in (1e-6, -1e-6):
                moved = [array.copy() for array in point]
                moved[which][index] += step
                ends.append(exact(*moved))
            slope = (ends[0] - ends[1]) / 2e-6
            assert gradient[index] == pytest.approx(slope, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("name", STILL)
def test_metrics_carry_no_gradient(data: tuple[jax.Array, jax.Array, jax.Array], name: str) -> None:
    x_BTD, table_VD, labels_BT = data

    def total(x_BTD: jax.Array) -> jax.Array:
        each = token_statistics(x_BTD, table_VD, labels_BT, cap=None, chunk_size=4)
        return jnp.sum(getattr(each, name))

    assert not jax.grad(total)(x_BTD).any()


def test_ties_count_for_the_label_and_what_is_not_a_number_against_it() -> None:
    """One feature, so that the table is the logits: [label's logit, others...]."""
    cases = {
        (0.0, 0.0, 0.0, 0.0, 0.0, 0.0): (1, 1),
        (1.0, 2.0, 1.0, 0.0, 0.0, 0.0): (0, 1),
        (1.0, 2.0, 2.0, 2.0, 2.0, 0.0): (0, 1),
        (1.0, 2.0, 2.0, 2.0, 2.0, 2.0): (0, 0),
        (float("nan"),) * 6: (0, 0),
    }
    for table, (top1, top5) in cases.items():
        one = token_statistics(
            jnp.ones((1, 1, 1)),
            jnp.asarray(table)[:, None],
            jnp.zeros((1, 1), jnp.int32),
            cap=None,
            chunk_size=1,
        )
        assert (float(one.top1[0, 0]), float(one.top5[0, 0])) == (top1, top5), table


def test_the_backward_pass_holds_one_chunk_of_logits() -> None:
    """By the compiler's own account of temporary memory: a row of logits does not fit into it."""
    length, width, vocab, chunk = 512, 8, 2048, 16
    x_BTD, table_VD = jnp.zeros((1, length, width)), jnp.zeros((vocab, width))
    labels_BT = jnp.zeros((1, length), jnp.int32)

    def temporary(chunk_size: int) -> int:
        def total(x_BTD: jax.Array, table_VD: jax.Array) -> jax.Array:
            each = token_statistics(x_BTD, table_VD, labels_BT, cap=2.0, chunk_size=chunk_size)
            return jnp.sum(each.nll + each.log_partition**2) + jnp.sum(each.entropy)

        compiled = jax.jit(jax.grad(total, argnums=(0, 1))).lower(x_BTD, table_VD).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    row, slice_of_it = 4 * length * vocab, 4 * chunk * vocab
    assert temporary(length) > row
    # Logits, their gradient and what the softmax makes of them, and the two sums of gradients.
    assert temporary(chunk) < 4 * slice_of_it + 2 * 4 * (table_VD.size + x_BTD.size)


def test_products_are_summed_in_float32() -> None:
    """A sum of 4096 ones times 1/8 in bfloat16 would stop growing at 256 eighths."""
    x = jnp.full((1, 4096), 0.125, jnp.bfloat16)
    raw = logits(x, jnp.ones((1, 4096)), cap=None)
    assert raw.dtype == jnp.float32 and float(raw[0, 0]) == 512.0


def test_soft_cap_is_this_table() -> None:
    raw = jnp.asarray([-1e9, -1.0, 0.0, 1.0, 1e9])
    expected = [-2.0, -2 * np.tanh(0.5), 0.0, 2 * np.tanh(0.5), 2.0]
    np.testing.assert_allclose(soft_cap(raw, cap=2.0), expected, rtol=1e-6)
    np.testing.assert_array_equal(soft_cap(raw, cap=None), raw)
