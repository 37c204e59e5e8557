"""Ground states of chains by two-site sweeps (DMRG, arXiv 1008.3477; White, PRL 69, 2863).

H is a product of matrices, too: one W_i[a, b] of operators a site, from row 0 of the first to the
last column of the last. A sweep visits each pair of neighbours; H, seen from the pair, is

    H_eff = L[l, a, L] W_i[a, c] W_{i+1}[c, b] R[r, b, R],

whose lowest state, found in a Krylov space that starts at what the pair holds, takes its place and
is cut to the chi largest singular values. After a sweep the chain is turned around, so that there
is one direction only. Time O(n chi^3) a sweep; float64 is what it is for.

Axes: N sites, L C R bonds of |psi>, l r of <psi|, P Q sites' values, A B D bonds of H, K Krylov.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rtdlm.config import UserError
from rtdlm.modules.quantum.mps import MPS
from rtdlm.modules.quantum.tensor_network_split import cut


class Ground(NamedTuple):
    """The lowest state that was found."""

    state: MPS
    energy: jax.Array
    """<psi|H|psi>: no less than the ground state's, up to rounding."""
    discarded_E: jax.Array
    """Share of the norm that was cut off at each pair of the last sweep."""


@partial(jax.jit, static_argnames=("num_sweeps", "num_krylov"))
def ground_state(
    state: MPS, operator_NABPP: jax.Array, *, num_sweeps: int, num_krylov: int = 8
) -> Ground:
    """Sweeps to and fro `num_sweeps` times, from a canonical state that the ground state overlaps.

    Args:
        state: where to start; what is found has bonds of its size.
        operator_NABPP: H, `[N, A, A, 2, 2]`, of the state's format; Hermitian.
        num_sweeps: 8 or so are enough where nothing is degenerate.
        num_krylov: dimensions of the space in which a pair is optimised.

    Raises:
        UserError: H has another number of sites.
    """
    if operator_NABPP.shape[0] != state.num_qubits:
        raise UserError(
            f"the operator has {operator_NABPP.shape[0]} sites and the state {state.num_qubits}: "
            "make them equal"
        )
    chi, width = state.max_bond, operator_NABPP.shape[1]

    def edge(row: int) -> jax.Array:
        """[l, A, L] outside of the chain."""
        found = np.zeros((chi, width, chi))
        found[0, row, 0] = 1.0
        return jnp.asarray(found, state.tensors_NLPR.dtype)

    ends = jnp.stack([edge(0), edge(width - 1)])
    rights = _environments(_turned(state.tensors_NLPR, operator_NABPP), ends[1])[:-1]

    def sweep(held: "_Held", _: None) -> tuple["_Held", jax.Array]:
        return _sweep(_sweep(held, num_krylov)[0], num_krylov)

    start = _Held(state.tensors_NLPR, operator_NABPP, rights[::-1], ends)
    end, discarded_SE = jax.lax.scan(sweep, start, None, length=num_sweeps)
    whole = _environments((end.tensors, end.operator), ends[0])[-1]
    last = _grown(whole, end.tensors[-1], end.operator[-1])
    energy = jnp.real(jnp.vdot(ends[1], last))
    return Ground(MPS(end.tensors), energy, discarded_SE[-1])


def ising_chain(num_qubits: int, *, field: float, dtype: jnp.dtype) -> jax.Array:
    """H = -sum_i X_i X_(i+1) - field sum_i Z_i of an open chain, `[N, 3, 3, 2, 2]`.

    The transverse-field Ising chain with X and Z swapped, so that |0...0> overlaps its ground
    state. At field 1, E = 1 - 1 / sin(pi / (2 (2 n + 1))) (Pfeuty, Annals of Physics 57, 79).
    """
    one, x, z = np.eye(2), np.array([[0.0, 1.0], [1.0, 0.0]]), np.diag([1.0, -1.0])
    site = np.zeros((3, 3, 2, 2))
    # Row and column 0: nothing yet; 1: an X waits for its neighbour; 2: all is done.
    site[0, 0], site[2, 2], site[0, 2] = one, one, -field * z
    site[0, 1], site[1, 2] = -x, x
    return jnp.broadcast_to(jnp.asarray(site, dtype)[None], (num_qubits, *site.shape))


class _Held(NamedTuple):
    """A chain with its centre at the first site, before a sweep to its last."""

    tensors: jax.Array
    operator: jax.Array
    rights: jax.Array
    """R beyond each pair."""
    ends: jax.Array
    """L before the first site and R beyond the last."""


def _turned(tensors: jax.Array, operator: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The chain from its other end."""
    return tensors[::-1].swapaxes(1, 3), operator[::-1].swapaxes(1, 2)


def _grown(left_lAL: jax.Array, tensor_LPR: jax.Array, site_ABPP: jax.Array) -> jax.Array:
    """L with one more site."""
    half = jnp.einsum("lAL,LPR->lAPR", left_lAL, tensor_LPR)
    half = jnp.einsum("lAPR,ABpP->lBpR", half, site_ABPP)
    return jnp.einsum("lBpR,lpr->rBR", half, jnp.conj(tensor_LPR))


def _environments(chain: tuple[jax.Array, jax.Array], start: jax.Array) -> jax.Array:
    """L before each site."""

    def step(left: jax.Array, at: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return _grown(left, *at), left

    return jax.lax.scan(step, start, chain)[1]


def _sweep(held: _Held, num_krylov: int) -> tuple[_Held, jax.Array]:
    """From the first site to the last, and the chain turned around; discarded weights."""
    chi = held.tensors.shape[1]
    zero = jnp.zeros((), jnp.finfo(held.tensors.dtype).dtype)

    def step(
        carried: tuple[jax.Array, jax.Array], at: tuple[jax.Array, ...]
    ) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, ...]]:
        centre_LPC, left = carried
        next_CQR, site, next_site, right = at
        pair_LPQR = jnp.einsum("LPC,CQR->LPQR", centre_LPC, next_CQR)

        def apply(pair_LPQR: jax.Array) -> jax.Array:
            found = jnp.einsum("lAL,LPQR->lAPQR", left, pair_LPQR)
            found = jnp.einsum("lAPQR,ADpP->lDpQR", found, site)
            found = jnp.einsum("lDpQR,DBqQ->lpqBR", found, next_site)
            return jnp.einsum("lpqBR,rBR->lpqr", found, right)

        matrix = _lowest(apply, pair_LPQR, num_krylov).reshape(2 * chi, 2 * chi)
        space, rest, weight = cut(matrix, keep=chi, threshold=zero)
        tensor = space.reshape(chi, 2, chi)
        after = (rest.reshape(chi, 2, chi), _grown(left, tensor, site))
        return after, (tensor, left, weight)

    tensors, operator = held.tensors, held.operator
    around = (tensors[1:], operator[:-1], operator[1:], held.rights)
    (last, _), (first, lefts, weights) = jax.lax.scan(step, (tensors[0], held.ends[0]), around)
    tensors, operator = _turned(jnp.concatenate([first, last[None]]), operator)
    return _Held(tensors, operator, lefts[::-1], held.ends[::-1]), weights


def _lowest(apply: "_Operator", start: jax.Array, num_krylov: int) -> jax.Array:
    """The lowest state of `apply` in the space of start, H start, ..., H^(K - 1) start."""
    size = start.size
    vectors_KS = jnp.zeros((num_krylov, size), start.dtype)

    def step(
        carried: tuple[jax.Array, jax.Array], index: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        vectors_KS, vector_S = carried
        # Twice, since once leaves what rounding made.
        for _ in range(2):
            vector_S -= vectors_KS.T @ (jnp.conj(vectors_KS) @ vector_S)
        length = jnp.linalg.norm(vector_S)
        is_new = length > 1e3 * jnp.finfo(length.dtype).tiny
        vector_S /= jnp.where(is_new, length, 1.0).astype(vector_S.dtype)
        acted_S = apply(vector_S.reshape(start.shape)).reshape(size)
        return (vectors_KS.at[index].set(vector_S), acted_S), acted_S

    carried = (vectors_KS, start.reshape(size))
    (vectors_KS, _), acted_KS = jax.lax.scan(step, carried, jnp.arange(num_krylov))
    seen_KK = jnp.conj(vectors_KS) @ acted_KS.T
    is_zero_K = jnp.sum(jnp.abs(vectors_KS), axis=1) == 0
    # What is no vector must not be the lowest.
    most = jnp.sum(jnp.abs(seen_KK))
    seen_KK += jnp.diag(jnp.where(is_zero_K, most, 0.0)).astype(seen_KK.dtype)
    weights_K = jnp.linalg.eigh(seen_KK)[1][:, 0]
    return (weights_K @ vectors_KS).reshape(start.shape)


_Operator = Callable[[jax.Array], jax.Array]
