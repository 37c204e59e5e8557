"""Newton-Schulz against its polynomial in float64 and against what it is for; Muon's momentum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.training.muon import newton_schulz, scale_by_muon
from tests.training import optimizers as papers

SHAPES = [(6, 9), (9, 6), (7, 7), (1, 5), (5, 1), (3, 8, 12), (2, 3, 12, 8)]


def spread(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Random matrices whose singular values lie evenly between 0.1 and 1."""
    rng = np.random.default_rng(seed)
    u, values, v = np.linalg.svd(rng.normal(size=shape), full_matrices=False)
    return u @ (np.linspace(1.0, 0.1, values.shape[-1])[:, None] * v)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("steps", [1, 5])
def test_newton_schulz_is_its_polynomial(shape: tuple[int, ...], steps: int) -> None:
    x = spread(shape)
    actual = jax.jit(lambda x: newton_schulz(x, steps=steps, dtype=jnp.float32))(
        jnp.asarray(x, jnp.float32)
    )
    matrices = x.reshape(-1, *shape[-2:])
    expected = np.stack([papers.newton_schulz(matrix, steps) for matrix in matrices])
    np.testing.assert_allclose(actual, expected.reshape(shape), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [*SHAPES, (64, 160), (160, 64), (64, 64)], ids=str)
def test_in_bfloat16_singular_values_are_near_one_and_vectors_kept(shape: tuple[int, ...]) -> None:
    x = spread(shape)
    y = np.asarray(jax.jit(lambda x: newton_schulz(x, steps=5))(jnp.asarray(x, jnp.float32)))
    assert y.dtype == np.float32 and y.shape == shape
    values = np.linalg.svd(y, compute_uv=False)
    # The polynomial alone ends within 0.682 and 1.134 here; rounding moves that by a hundredth.
    assert 0.67 <= values.min() <= values.max() <= 1.15
    u, _, v = np.linalg.svd(x, full_matrices=False)
    turned = np.swapaxes(u, -1, -2) @ y @ np.swapaxes(v, -1, -2)
    # In the basis of its argument the result is diagonal, up to the rounding of five rounds.
    diagonal = turned * np.eye(turned.shape[-1])
    assert np.abs(turned - diagonal).max() < 0.02
    assert (np.diagonal(turned, axis1=-2, axis2=-1) > 0.6).all()


@pytest.mark.parametrize("momentum", [0.0, 0.95])
def test_the_direction_is_the_momentums_by_a_plain_loop(momentum: float) -> None:
    """m <- b m + (1 - b) g, u = NewtonSchulz(b m + (1 - b) g) sqrt(max(1, out / in))."""
    axes = {"wide": ((-2,), (-1,)), "heads": ((-3, -2), (-1,))}
    shapes = {"wide": (2, 6, 10), "heads": (3, 4, 6)}
    muon = scale_by_muon(lambda path: axes[path], momentum=momentum, steps=5)
    rng = np.random.default_rng(0)
    state = muon.init({name: jnp.zeros(shape) for name, shape in shapes.items()})
    mean = {name: np.zeros(shape) for name, shape in shapes.items()}
    for _ in range(3):
        grads = {name: rng.normal(size=shape) for name, shape in shapes.items()}
        given = {name: jnp.asarray(grad, jnp.float32) for name, grad in grads.items()}
        updates, state = muon.update(given, state)
        for name, grad in grads.items():
            mean[name] = momentum * mean[name] + (1 - momentum) * grad
            np.testing.assert_allclose(state.mean[name], mean[name], rtol=1e-5, atol=1e-6)
            ahead = momentum * mean[name] + (1 - momentum) * grad
            matrices = ahead.reshape((2, 6, 10) if name == "wide" else (1, 12, 6))
            scale = (10 / 6) ** 0.5 if name == "wide" else 1.0
            expected = scale * np.stack([papers.newton_schulz(m, 5) for m in matrices])
            error = np.asarray(updates[name]).reshape(matrices.shape) - expected
            # The iteration is in bfloat16: eight bits in each of five rounds.
            assert np.linalg.norm(error) < 0.025 * np.linalg.norm(expected)
