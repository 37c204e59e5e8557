"""Muon's direction: the momentum of a weight matrix with all its singular values made alike.

    m <- b m + (1 - b) g          u = NewtonSchulz(b m + (1 - b) g) sqrt(max(1, out / in))

(Jordan et al., 2024, github.com/KellerJordan/Muon; the width factor from arXiv 2409.20325.) The
quintic Newton-Schulz iteration

    X <- a X + (b A + c A A) X          A = X X^T

on X = G / |G| drives singular values towards 1, between about 0.7 and 1.2 after five steps. As in
the original it runs in bfloat16, whose rounding is far below that spread.

On several devices, moments lie in parts (ZeRO; arXiv 2502.16982 splits Muon so), but an iteration
needs the matrix: each is put together on one device, which does all its steps, and taken apart
again. It comes back in bfloat16, which is all that it then has.

Axes: ... stacked matrices, M rows, N >= M columns.
"""

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rtdlm.modules.primitives import dot, row_major
from rtdlm.parallel import (
    are_apart,
    on_one_device,
    on_whole_matrices,
    partition_spec,
    path_name,
)

MatrixAxes = tuple[tuple[int, ...], tuple[int, ...]]
"""Axes of a parameter that are summed over and that are produced, counted from the end."""

QUINTIC = (3.4445, -4.7750, 2.0315)
EPSILON = 1e-7
FORMAT = jnp.bfloat16
"""Of the iteration."""


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
        return _directions(jax.tree.map(blend, mean, updates), axes_of, steps), MuonState(mean)

    return optax.GradientTransformation(init, update)


def _directions(gradients: Any, axes_of: Callable[[str], MatrixAxes], steps: int) -> Any:
    """`_orthogonalised` of every leaf; matrices that are split meet on one device each."""
    met = _met(gradients, axes_of, steps)

    def direction(path: tuple[Any, ...], gradient: jax.Array) -> jax.Array:
        name = path_name(path)
        found = met.get(name)
        return _orthogonalised(gradient, axes_of(name), steps) if found is None else found

    return jax.tree_util.tree_map_with_path(direction, gradients)


def _met(gradients: Any, axes_of: Callable[[str], MatrixAxes], steps: int) -> dict[str, jax.Array]:
    """The directions of those leaves whose moments, and so matrices, lie in parts, by path."""
    if on_one_device():
        return {}
    mesh = jax.sharding.get_abstract_mesh()
    leaves = {path_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(gradients)}
    specs = {path: partition_spec(path, x.shape, mesh) for path, x in leaves.items()}
    paths = [path for path, spec in specs.items() if are_apart(spec, axes_of(path))]
    if not paths:
        return {}
    found = on_whole_matrices(
        lambda matrices: newton_schulz(matrices, steps=steps, dtype=FORMAT).astype(FORMAT),
        [leaves[path] for path in paths],
        specs=[specs[path] for path in paths],
        sides=[axes_of(path) for path in paths],
    )
    return {
        path: _width_factor(x, axes_of(path)) * x.astype(jnp.float32)
        for path, x in zip(paths, found, strict=True)
    }


def _orthogonalised(gradient: jax.Array, axes: MatrixAxes, steps: int) -> jax.Array:
    """`newton_schulz` of the matrices in an array whose leading axes, if any, stack them."""
    summed, produced = (prod(gradient.shape[axis] for axis in side) for side in axes)
    lead = gradient.ndim - len(axes[0]) - len(axes[1])
    matrices = gradient.reshape(*gradient.shape[:lead], summed, produced)
    scale = _width_factor(gradient, axes)
    return (scale * newton_schulz(matrices, steps=steps, dtype=FORMAT)).reshape(gradient.shape)


def _width_factor(gradient: jax.Array, axes: MatrixAxes) -> float:
    summed, produced = (prod(gradient.shape[axis] for axis in side) for side in axes)
    return max(1.0, produced / summed) ** 0.5


def newton_schulz(
    matrices: jax.Array, *, steps: int, dtype: jnp.dtype | type = FORMAT
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
