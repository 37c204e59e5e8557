"""Muon's direction: the momentum of a weight matrix with all its singular values made alike.

    m <- b m + (1 - b) g          u = NewtonSchulz(b m + (1 - b) g) sqrt(max(1, out / in))

(Jordan et al., 2024, github.com/KellerJordan/Muon; the width factor from arXiv 2409.20325.) The
quintic Newton-Schulz iteration

    X <- a X + (b A + c A A) X          A = X X^T

on X = G / |G| drives singular values towards 1, between about 0.7 and 1.2 after five steps. As in
the original it runs in bfloat16, whose rounding is far below that spread.

Axes: ... stacked matrices, M rows, N >= M columns.
"""

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rtdlm.modules.primitives import dot, row_major
from rtdlm.parallel import path_name

MatrixAxes = tuple[tuple[int, ...], tuple[int, ...]]
"""Axes of a parameter that are summed over and that are produced, counted from the end."""

QUINTIC = (3.4445, -4.7750, 2.0315)
EPSILON = 1e-7


class MuonState(NamedTuple):
    """The gradients' running mean, a leaf a parameter."""

    mean: Any


def scale_by_muon(
    axes_of: Callable[[str], MatrixAxes], *, momentum: float, steps: int
) -> optax.GradientTransformation:
    """The direction of every leaf; `axes_of` gives the matrix axes of the parameter at a path."""

    def init(params: Any) -> MuonState:
        return MuonState(jax.tree.map(jnp.zeros_like, params))

    def update(updates: Any, state: MuonState, params: Any = None) -> tuple[Any, MuonState]:
        del params

        def blend(m: jax.Array, g: jax.Array) -> jax.Array:
            return momentum * m + (1.0 - momentum) * g

        mean = jax.tree.map(blend, state.mean, updates)

        def direction(path: tuple[Any, ...], m: jax.Array, g: jax.Array) -> jax.Array:
            return _orthogonalised(blend(m, g), axes_of(path_name(path)), steps)

        return jax.tree_util.tree_map_with_path(direction, mean, updates), MuonState(mean)

    return optax.GradientTransformation(init, update)


def _orthogonalised(gradient: jax.Array, axes: MatrixAxes, steps: int) -> jax.Array:
    """`newton_schulz` of the matrices in an array whose leading axes, if any, stack them."""
    summed, produced = (prod(gradient.shape[axis] for axis in side) for side in axes)
    lead = gradient.ndim - len(axes[0]) - len(axes[1])
    matrices = gradient.reshape(*gradient.shape[:lead], summed, produced)
    scale = max(1.0, produced / summed) ** 0.5
    return (scale * newton_schulz(matrices, steps=steps)).reshape(gradient.shape)


def newton_schulz(
    matrices: jax.Array, *, steps: int, dtype: jnp.dtype | type = jnp.bfloat16
) -> jax.Array:
    """Float32 `[..., M, N]` with about the singular vectors of `matrices` and values near 1."""
    if matrices.shape[-2] > matrices.shape[-1]:
        wide = row_major(jnp.swapaxes(matrices, -1, -2))
        turned = newton_schulz(wide, steps=steps, dtype=dtype)
        return jnp.swapaxes(row_major(turned), -1, -2)
    norm = jnp.sqrt(jnp.sum(jnp.square(matrices), axis=(-1, -2), keepdims=True))
    x = (matrices / (norm + EPSILON)).astype(dtype)
    a, b, c = QUINTIC
    for _ in range(steps):
        gram = dot("...mn,...kn->...mk", x, x).astype(dtype)
        polynomial = b * gram.astype(jnp.float32) + c * dot("...mk,...kl->...ml", gram, gram)
        moved = dot("...mk,...kn->...mn", polynomial.astype(dtype), x)
        x = (a * x.astype(jnp.float32) + moved).astype(dtype)
    return x.astype(jnp.float32)
