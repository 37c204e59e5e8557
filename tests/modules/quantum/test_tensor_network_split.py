"""Cuts and their derivatives against finite differences, in every kind of degeneracy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.modules.quantum.tensor_network_split import (
    cut,
    dagger,
    fidelity_bound,
    fidelity_estimate,
    orthonormal,
)

SIZE, STEP = 8, 1e-5


def draw(*shape: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)


def moving(values: list[float]) -> tuple[np.ndarray, ...]:
    """Factors of a matrix with these singular values, and their changes: the rank stays."""
    rank = len(values)
    left, right = (np.linalg.qr(draw(SIZE, rank, seed=seed))[0] for seed in (0, 1))
    return left * values, right.T, draw(SIZE, rank, seed=2), draw(rank, SIZE, seed=3)


@jax.enable_x64(True)
@pytest.mark.parametrize(
    ("values", "keep", "threshold"),
    [
        ([8, 7, 6, 5, 4, 3, 2, 1], 3, 0.0),
        ([8, 7, 6, 5, 4, 3, 2, 1], 8, 0.3),
        ([2, 2, 2, 1, 1], 3, 0.0),  # equal ones are kept, and equal ones dropped
        ([2, 1], 2, 0.0),
        ([2, 1], 5, 0.0),  # zeros are kept
        ([1], 2, 0.0),
    ],
)
def test_derivatives_of_what_is_kept(values: list[float], keep: int, threshold: float) -> None:
    left, right, move_left, move_right = (jnp.asarray(x) for x in moving(values))

    @jax.jit
    def kept(at: float) -> tuple[jax.Array, jax.Array]:
        matrix = (left + at * move_left) @ (right + at * move_right)
        space, rest, weight = cut(matrix, keep=keep, threshold=jnp.asarray(threshold))
        return space @ rest, weight

    found = jax.jvp(kept, (0.0,), (1.0,))[1]
    for got, up, down in zip(found, kept(STEP), kept(-STEP), strict=True):
        np.testing.assert_allclose(got, (up - down) / (2 * STEP), atol=1e-8)


@jax.enable_x64(True)
@pytest.mark.parametrize("rank", [1, 4])
def test_derivatives_of_a_basis(rank: int) -> None:
    """Of fewer columns than rows; unused columns change nothing."""
    factors = moving([*range(rank, 0, -1)])
    left, move_left = (jnp.asarray(factors[i]) for i in (0, 2))
    right, move_right = (jnp.asarray(factors[i][:, :4]) for i in (1, 3))
    weigh = jnp.asarray(draw(SIZE, 4, seed=4))

    @jax.jit
    def read(at: float) -> jax.Array:
        """Real, and of a tangled form that any unitary turn of the basis leaves as it is."""
        matrix = (left + at * move_left) @ (right + at * move_right)
        basis = orthonormal(matrix)
        rest = dagger(basis) @ matrix
        return jnp.real(jnp.sum(weigh * (basis @ rest @ dagger(rest) @ rest)))

    wanted = (read(STEP) - read(-STEP)) / (2 * STEP)
    np.testing.assert_allclose(jax.grad(read)(0.0), wanted, rtol=1e-7)


def test_a_cut_is_the_best_one() -> None:
    """By NumPy's singular values; the factors are an isometry and of norm 1."""
    matrix = draw(SIZE, SIZE, seed=5).astype(np.complex64)
    space, rest, weight = cut(jnp.asarray(matrix), keep=3, threshold=jnp.float32(0))
    u, s, vh = np.linalg.svd(matrix)
    best = (u[:, :3] * s[:3]) @ vh[:3]
    np.testing.assert_allclose(space @ rest, best / np.linalg.norm(best), atol=1e-6)
    np.testing.assert_allclose(weight, (s[3:] ** 2).sum() / (s**2).sum(), rtol=1e-5)
    np.testing.assert_allclose(dagger(space) @ space, np.eye(3), atol=1e-6)


def test_the_threshold_is_a_share_of_the_norm() -> None:
    """Of 3, 4, 12 with norm 13: 3 is dropped below 4 / 13; the largest never is."""
    matrix = jnp.diag(jnp.asarray([3.0, 12.0, 4.0]))
    for threshold, num_kept, lost in ((0.25, 2, 9 / 169), (0.99, 1, 25 / 169)):
        space, _, weight = cut(matrix, keep=3, threshold=jnp.float32(threshold))
        np.testing.assert_allclose(weight, lost, rtol=1e-6)
        assert (np.abs(space).sum(0) > 0).tolist() == [i < num_kept for i in range(3)]


def test_bound_and_estimate_of_the_fidelity() -> None:
    """Two turns by 30 degrees are at most one by 60; by 60 and 60 they may be all there is."""
    quarter, most = jnp.asarray([0.25, 0.0, 0.25]), jnp.asarray([0.75, 0.75])
    np.testing.assert_allclose(fidelity_bound(quarter), 0.25, rtol=1e-6)
    np.testing.assert_allclose(fidelity_estimate(quarter), 0.5625, rtol=1e-6)
    np.testing.assert_allclose(fidelity_bound(most), 0, atol=1e-12)
