"""Cutting a tensor in two: orthonormal bases, truncation, and what truncation costs.

A matrix M is written as U (U^+ M) with orthonormal columns U: all that span M (`orthonormal`), or
its K leading left singular vectors (`leading`), which of all K columns lose the least (Eckart,
Young).
Whoever writes M so is free to turn U by a unitary that U^+ M undoes. The derivatives here are of
the U that does not turn, U^+ dU = 0, so that no pair of kept singular values is divided by its
difference, and equal ones or zeros do no harm. What is left, with M = W S V^+ and X = W^+ dM V,

    dU = sum_j W_j (X_ji s_i + s_j X_ij*) / (s_i^2 - s_j^2)        i kept, j dropped,

is the part of truncation itself (arXiv 2311.11894). Differences are broadened, x / (x^2 + e^2)
for 1 / x with e of rounding's size (arXiv 1903.09650). The derivative of whatever depends on U and
U^+ M by way of U U^+ M is exact, but in two cases: kept and dropped singular values are equal, so
that there is none; or a change raises the rank of M (such as that of an entangling angle from 0
between qubits that nothing entangles), whose new singular value is taken for 0. Start such angles
elsewhere. Derivatives are of first order only.

A cut of a normalised state that keeps all but a share w of its weight turns it by arcsin(sqrt(w)),
gates keep angles, and angles add at most: after many cuts the fidelity with what the gates would
have made is at least cos^2(sum arcsin(sqrt(w))), rounding aside. The product of all 1 - w, what
came out if errors were orthogonal, is the usual estimate (arXiv 2002.07730) and no bound.

Axes: M rows, C columns, K columns that are kept, T truncations.
"""

from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

State = TypeVar("State")


@jax.custom_jvp
def orthonormal(matrix_MC: jax.Array) -> jax.Array:
    """Orthonormal columns `[M, min(M, C)]` that span at least those of the matrix."""
    return _sharpened(jnp.linalg.qr(matrix_MC)[0])


@orthonormal.defjvp
def _orthonormal_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (matrix,), (change,) = primals, tangents
    basis = orthonormal(matrix)
    # The pseudo-inverse is zero for directions that the matrix does not use.
    moved = change @ jnp.linalg.pinv(dagger(basis) @ matrix)
    return basis, moved - basis @ (dagger(basis) @ moved)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def leading(
    matrix_MM: jax.Array, threshold: jax.Array, keep: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The leading left singular vectors, as many as `cut` keeps.

    Returns:
        Them `[M, keep]`, followed by zeros; each share of the norm `[M]`, falling; which are kept.
    """
    assert matrix_MM.shape[0] == matrix_MM.shape[1], matrix_MM.shape
    space_MM, values_M, _ = jnp.linalg.svd(matrix_MM)
    share_M, is_kept_M = _chosen(values_M, threshold, keep)
    return _kept(space_MM, is_kept_M, keep), share_M, is_kept_M


def _chosen(values_M: jax.Array, threshold: jax.Array, keep: int) -> tuple[jax.Array, jax.Array]:
    share_M = values_M / jnp.linalg.norm(values_M)
    index_M = jnp.arange(len(share_M))
    return share_M, (index_M < keep) & ((share_M > threshold) | (index_M == 0))


def _kept(space_MM: jax.Array, is_kept_M: jax.Array, keep: int) -> jax.Array:
    return _sharpened((space_MM * is_kept_M[None].astype(space_MM.dtype))[:, :keep])


def _sharpened(basis_MK: jax.Array) -> jax.Array:
    """A Newton step to the nearest orthonormal columns.

    Columns from LAPACK are off length 1 by some roundings, always to the same side: after hundreds
    of cuts in complex64 that is seen.
    """
    return 1.5 * basis_MK - 0.5 * basis_MK @ (dagger(basis_MK) @ basis_MK)


@leading.defjvp
def _leading_jvp(keep: int, primals: Any, tangents: Any) -> tuple[Any, Any]:
    (matrix, threshold), (change, _) = primals, tangents
    space, values, right = jnp.linalg.svd(matrix)
    share, is_kept = _chosen(values, threshold, keep)
    moved = dagger(space) @ change @ dagger(right)
    other = dagger(moved)
    least = 8 * jnp.finfo(values.dtype).eps * values[0]
    # (X s_i + s_j X*) / (s_i^2 - s_j^2), taken apart so that no value is squared.
    apart = _inverse(values[None] - values[:, None], least).astype(moved.dtype)
    along = _inverse(values[None] + values[:, None], least).astype(moved.dtype)
    turn = 0.5 * ((moved + other) * apart + (moved - other) * along)
    turn = jnp.where(is_kept[None] & ~is_kept[:, None], turn, 0)
    grown = jnp.real(jnp.diagonal(moved)) / jnp.linalg.norm(values)
    change_share = grown - share * jnp.sum(share * grown)
    no_change = np.zeros(is_kept.shape, jax.dtypes.float0)
    kept = _kept(space, is_kept, keep)
    return (kept, share, is_kept), ((space @ turn)[:, :keep], change_share, no_change)


def _inverse(x: jax.Array, least: jax.Array) -> jax.Array:
    """1 / x where x is much larger than `least`, and 0 at 0."""
    size = jnp.maximum(x * x + least * least, jnp.finfo(x.dtype).tiny)
    return x / size


def dagger(matrix: jax.Array) -> jax.Array:
    """The conjugate of the last two axes' transpose."""
    return jnp.conj(jnp.swapaxes(matrix, -1, -2))


def cut(
    matrix_MM: jax.Array, *, keep: int, threshold: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The matrix as a product of `[M, K]`, orthonormal columns, and `[K, M]`, of norm 1.

    Args:
        matrix_MM: what is cut.
        keep: most singular values that are kept.
        threshold: singular values up to this share of the matrix's norm are dropped, too, but for
            the largest.

    Returns:
        Both factors, and the share of the squared norm that was dropped, in [0, 1].
    """
    space_MK, share_M, is_kept_M = leading(matrix_MM, threshold, keep)
    rest_KM = dagger(space_MK) @ matrix_MM
    return space_MK, rest_KM / norm(rest_KM), jnp.sum(jnp.where(is_kept_M, 0.0, share_M**2))


def norm(tensor: jax.Array) -> jax.Array:
    """The root of the sum of squared sizes, in the tensor's own format."""
    return jnp.sqrt(jnp.sum(jnp.real(tensor) ** 2 + jnp.imag(tensor) ** 2)).astype(tensor.dtype)


class Evolved(NamedTuple, Generic[State]):
    """What a circuit made of a state."""

    state: State
    discarded_T: jax.Array
    """Share of the squared norm that each step dropped; 0 for steps that cut nothing."""

    @property
    def fidelity_bound(self) -> jax.Array:
        """The fidelity with the circuit's exact result is at least this, rounding aside."""
        return fidelity_bound(self.discarded_T)

    @property
    def fidelity_estimate(self) -> jax.Array:
        """What the fidelity is likely to be."""
        return fidelity_estimate(self.discarded_T)


def fidelity_bound(discarded_T: jax.Array) -> jax.Array:
    """Least fidelity |<exact|truncated>|^2 that these discarded weights allow."""
    angle = jnp.sum(jnp.arcsin(jnp.sqrt(jnp.clip(discarded_T, 0.0, 1.0))))
    return jnp.cos(jnp.minimum(angle, jnp.pi / 2)) ** 2


def fidelity_estimate(discarded_T: jax.Array) -> jax.Array:
    """Fidelity that is to be expected with these discarded weights: no bound."""
    return jnp.prod(1 - discarded_T)
