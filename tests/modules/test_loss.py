"""The objective and its gradient, made on the way forward, against float64 and autodiff."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from scipy.special import logsumexp

from rtdlm.config import MeshConfig
from rtdlm.modules.head import LossTerms, TokenLoss, logits, token_loss, token_statistics
from rtdlm.parallel import batch_sharding, make_mesh
from rtdlm.parallel.collectives import read_collectives
from rtdlm.parallel.hlo import parse_program

B, T, D, V = 2, 11, 6, 23


class Case(NamedTuple):
    """What the head is given."""

    x: Any
    table: Any
    labels: Any
    terms: LossTerms


def case(smoothing: float, z_loss: float, *, dtype: str = "float32") -> Case:
    """Random features and labels; weights of all sizes, a quarter of them zero."""
    rng = np.random.default_rng(0)
    weights = rng.uniform(0.2, 2.0, (B, T)) * (rng.random((B, T)) < 0.75)
    return Case(
        jnp.asarray(rng.normal(size=(B, T, D)), dtype),
        jnp.asarray(2 * rng.normal(size=(V, D)), jnp.float32),
        jnp.asarray(rng.integers(V, size=(B, T)), jnp.int32),
        LossTerms(
            jnp.asarray(weights, jnp.float32),
            jnp.float32(smoothing),
            jnp.float32(z_loss),
            jnp.float32(1.0),
        ),
    )


def exact(x: np.ndarray, given: Case, table: np.ndarray, cap: float | None) -> float:
    """The formula in float64."""
    scores = x @ table.T
    scores = scores if cap is None else cap * np.tanh(scores / cap)
    weights, smoothing, z_loss = (np.asarray(term, np.float64) for term in given.terms[:3])
    partition = logsumexp(scores, axis=-1)
    nll = partition - np.take_along_axis(scores, np.asarray(given.labels)[..., None], -1)[..., 0]
    each = (1 - smoothing) * nll + smoothing * (partition - scores.mean(-1))
    return float((weights * (each + z_loss * partition**2)).sum())


def slopes(given: Case, cap: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Central differences of `exact` in the features and in the table."""
    point = [np.asarray(given.x, np.float64), np.asarray(given.table, np.float64)]
    found = [np.empty_like(array) for array in point]
    for which, slope in enumerate(found):
        for index in np.ndindex(slope.shape):
            ends = []
            for step in (1e-6, -1e-6):
                moved = [array.copy() for array in point]
                moved[which][index] += step
                ends.append(exact(moved[0], given, moved[1], cap))
            slope[index] = (ends[0] - ends[1]) / 2e-6
    return found[0], found[1]


@partial(jax.jit, static_argnames=("cap", "chunk_size", "times"))
def ours(given: Case, cap: float | None, chunk_size: int, times: float = 1.0) -> Any:
    """Loss and gradients of `times` the objective."""

    def total(x: jax.Array, table: jax.Array) -> tuple[jax.Array, TokenLoss]:
        loss = token_loss(x, table, *given[2:], cap=cap, chunk_size=chunk_size)
        return times * loss.objective, loss

    return jax.grad(total, argnums=(0, 1), has_aux=True)(given.x, given.table)


@pytest.mark.parametrize(
    ("smoothing", "z_loss", "cap"),
    [(0.0, 0.0, None), (0.1, 0.0, None), (0.0, 0.01, None), (0.1, 0.01, 1.5)],
)
def test_objective_and_gradients_equal_finite_differences_whatever_the_chunks(
    smoothing: float, z_loss: float, cap: float | None
) -> None:
    given = case(smoothing, z_loss)
    x, table = np.asarray(given.x, np.float64), np.asarray(given.table, np.float64)
    expected, value = slopes(given, cap), exact(x, given, table, cap)
    for chunk_size in (1, 4, T, T + 5):
        gradients, loss = ours(given, cap, chunk_size)
        assert float(loss.objective) == pytest.approx(value, rel=1e-6)
        for got, slope in zip(gradients, expected, strict=True):
            np.testing.assert_allclose(got, slope, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("chunk_size", [4, T])
@pytest.mark.parametrize("cap", [None, 1.5])
def test_its_statistics_are_those_made_without_a_loss(chunk_size: int, cap: float | None) -> None:
    given = case(0.1, 0.01)
    _, loss = ours(given, cap, chunk_size)
    tokens = token_statistics(*given[:3], cap=cap, chunk_size=chunk_size)
    for name, got, expected in zip(tokens._fields, loss.tokens, tokens, strict=True):
        assert got.shape == (B, T) and got.dtype == jnp.float32
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6, err_msg=name)


def test_the_gradient_is_scaled_by_what_the_objective_counts_for() -> None:
    """As a mean's divisor or float16's loss scale do; the statistics and terms carry none."""
    given = case(0.1, 0.01)
    once, _ = ours(given, None, 4)
    thrice, _ = ours(given, None, 4, times=-3.0)
    for got, expected in zip(thrice, once, strict=True):
        np.testing.assert_allclose(got, -3.0 * expected, rtol=1e-6)

    def other(x: jax.Array, table: jax.Array, terms: LossTerms) -> jax.Array:
        loss = token_loss(x, table, given.labels, terms, cap=None, chunk_size=4)
        return sum(jnp.sum(value) for value in loss.tokens)

    def terms_alone(terms: LossTerms) -> jax.Array:
        return token_loss(*given[:3], terms, cap=None, chunk_size=4).objective

    gradients = jax.grad(other, argnums=(0, 1, 2))(given.x, given.table, given.terms)
    for gradient in jax.tree.leaves((gradients, jax.grad(terms_alone)(given.terms))):
        assert not gradient.any()


def test_slopes_are_made_at_the_size_they_are_told() -> None:
    """Weights of a million are too much for float16, and of a millionth too little, but not the
    mean that is differentiated; what the scale is told changes nothing else.
    """
    given = case(0.1, 0.01, dtype="float16")
    plain, loss = ours(given, None, 4)
    for factor in (2.0**20, 2.0**-20):
        terms = given.terms._replace(
            weights_BT=given.terms.weights_BT * factor, scale=jnp.float32(1 / factor)
        )
        gradients, weighed = ours(given._replace(terms=terms), None, 4, times=1 / factor)
        assert float(weighed.objective) == float(loss.objective) * factor
        for got, expected in zip(gradients, plain, strict=True):
            np.testing.assert_array_equal(got, expected)


def test_rows_one_after_the_other_add_up_to_the_whole() -> None:
    given = case(0.1, 0.01)
    (dx, dtable), loss = ours(given, 1.5, 4)

    @jax.jit
    def accumulated(given: Case) -> Any:
        rows = (given.x[:, None], given.labels[:, None], given.terms.weights_BT[:, None])

        def add(total: jax.Array, row: Any) -> tuple[jax.Array, Any]:
            terms = given.terms._replace(weights_BT=row[2])
            (dx, dtable), loss = ours(Case(row[0], given.table, row[1], terms), 1.5, 4)
            return total + dtable, (dx[0], loss.objective)

        return jax.lax.scan(add, jnp.zeros((V, D)), rows)

    total, (dx_rows, objectives) = accumulated(given)
    np.testing.assert_allclose(total, dtable, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(dx_rows, dx, rtol=1e-5, atol=1e-6)
    assert float(objectives.sum()) == pytest.approx(float(loss.objective), rel=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_rounds_the_slopes_and_nothing_else(dtype: str) -> None:
    """Autodiff of the formula from the same rounded inputs, within two roundings."""
    given = case(0.1, 0.01, dtype=dtype)
    gradients, loss = ours(given, None, 4)
    rounded = [jnp.asarray(a, dtype).astype(jnp.float32) for a in (given.x, given.table)]

    def naive(x: jax.Array, table: jax.Array) -> jax.Array:
        weights, smoothing, z_loss, _ = given.terms
        scores = logits(x, table, cap=None)
        partition = jax.nn.logsumexp(scores, axis=-1)
        label = jnp.take_along_axis(scores, given.labels[..., None], axis=-1)[..., 0]
        each = (1 - smoothing) * (partition - label)
        each += smoothing * (partition - scores.mean(-1)) + z_loss * partition**2
        return jnp.sum(weights * each)

    value, expected = jax.value_and_grad(naive, argnums=(0, 1))(*rounded)
    assert float(loss.objective) == pytest.approx(float(value), rel=1e-5)
    assert [array.dtype.name for array in gradients] == [dtype, "float32"]
    roundings = 2 * float(jnp.finfo(dtype).eps) / 2
    for got, slope in zip(gradients, expected, strict=True):
        error = np.abs(got.astype(jnp.float32) - slope).max()
        assert error < roundings * np.abs(slope).max()


def test_one_chunk_of_logits_exists_at_a_time() -> None:
    """By the compiler's own account of temporary memory: a row of logits does not fit into it."""
    length, width, vocab, chunk = 512, 8, 2048, 16
    given = Case(
        jnp.zeros((1, length, width)),
        jnp.zeros((vocab, width)),
        jnp.zeros((1, length), jnp.int32),
        LossTerms(jnp.ones((1, length)), *jnp.zeros((2,)), jnp.float32(1)),
    )

    def temporary(chunk_size: int) -> int:
        compiled = ours.lower(given, cap=2.0, chunk_size=chunk_size).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    row, slice_of_it = 4 * length * vocab, 4 * chunk * vocab
    assert temporary(length) > row
    assert temporary(chunk) < 4 * slice_of_it + 3 * 4 * (vocab + length) * width


@pytest.mark.parametrize("split", ["table", "nothing"])
@pytest.mark.parametrize("sizes", [{"fsdp": 8}, {"data": 2, "fsdp": 2, "tensor": 2}], ids=str)
def test_devices_sum_the_tables_gradient_once_however_many_chunks(
    sizes: dict[str, int], split: str
) -> None:
    rows, length, width, vocab = 8, 16, 16, 128
    rng = np.random.default_rng(0)
    given = Case(
        rng.normal(size=(rows, length, width)).astype(np.float32),
        rng.normal(size=(vocab, width)).astype(np.float32),
        rng.integers(vocab, size=(rows, length), dtype=np.int32),
        LossTerms(rng.uniform(size=(rows, length)).astype(np.float32), *np.float32([0.1, 0.01, 1])),
    )
    mesh = make_mesh(MeshConfig(**{"data": -1, **sizes}))
    each, whole = batch_sharding(mesh), NamedSharding(mesh, PartitionSpec())
    over = PartitionSpec("tensor", "fsdp" if split == "table" else None)
    table = NamedSharding(mesh, over)
    lie = Case(each, table, each, LossTerms(each, whole, whole, whole))
    sent = []
    for chunk_size in (length, 3):
        (dx, dtable), loss = ours(given, None, chunk_size)
        with jax.set_mesh(mesh):
            function = jax.jit(
                lambda given, size=chunk_size: ours(given, None, size),
                in_shardings=(lie,),
                out_shardings=((each, table), TokenLoss(whole, each)),
            )
            found = function(given)
            program = parse_program(function.lower(given).compile().as_text())
        for got, expected in zip(
            jax.tree.leaves(found), jax.tree.leaves(((dx, dtable), loss)), strict=True
        ):
            np.testing.assert_allclose(got, expected, rtol=2e-5, atol=1e-5)
        rows_apart = [row for row in read_collectives(program, mesh) if "tensor" not in row.axes]
        sent.append(sum(row.sent for row in rows_apart))
    # A number a chunk comes on top.
    assert sent[0] <= sent[1] <= sent[0] + 100
