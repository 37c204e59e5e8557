"""What is measured of a matrix product state: expectations and samples (arXiv 1201.3974).

Expectations contract <psi| and |psi> site by site, <O> = <psi|O|psi> / <psi|psi>, for any tensors,
so that tensors may be parameters; each site is rescaled, so that hundreds neither over- nor
underflow. Samples are exact and independent: of a canonical state, qubit i given those before it is

    p(b | b_0 ... b_{i-1}) = |v_i A_i[:, b, :]|^2 / |v_i|^2        v_{i+1} = v_i A_i[:, b, :].

All cost O(n chi^3) or less, for each string of Paulis; a sample costs O(n chi^2).

Axes: N qubits, L left bond, P qubit's value, R right bond, S strings or samples, E neighbours; of
<psi| the same in small letters.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from rtdlm.modules.quantum.mps import MPS
from rtdlm.modules.quantum.pauli import PauliSum
from rtdlm.modules.quantum.tensor_network_paulis import pauli_matrices


def mps_expectations(state: MPS, strings: Sequence[str]) -> jax.Array:
    """<psi|O|psi> / <psi|psi> of products of Paulis, `[len(strings)]`, real.

    Args:
        state: any complex tensors that do not contract to zero.
        strings: letters of IXYZ each, qubit 0 first; qubits without a letter have I.

    Raises:
        UserError: a string is too long or has another letter.
    """
    # <psi|psi> is one more string, and what the others are divided by.
    return _products(state, pauli_matrices([*strings, ""], state.num_qubits))


@jax.jit
def _products(state: MPS, matrices_SNPP: jax.Array) -> jax.Array:
    """All strings but the last, over the last."""
    tensors = state.tensors_NLPR
    matrices_NSPP = matrices_SNPP.swapaxes(0, 1).astype(tensors.dtype)

    def step(left_SlL: jax.Array, at: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        tensor, matrix_SpP = at
        half = jnp.einsum("SlL,LPR->SlPR", left_SlL, tensor)
        half = jnp.einsum("SpP,SlPR->SlpR", matrix_SpP, half)
        left = jnp.einsum("SlpR,lpr->SrR", half, jnp.conj(tensor))
        return left / _size(left[-1]), None

    start = jnp.broadcast_to(_corner(state), (len(matrices_SNPP), *_corner(state).shape))
    end_SrR, _ = jax.lax.scan(step, start, (tensors, matrices_NSPP))
    found_S = jnp.real(end_SrR[:, 0, 0])
    return found_S[:-1] / found_S[-1]


def mps_energy(state: MPS, observable: PauliSum) -> jax.Array:
    """The expectation value of a weighted sum, a number."""
    values = mps_expectations(state, observable.strings)
    return jnp.sum(jnp.asarray(observable.weights, values.dtype) * values)


@jax.jit
def mps_neighbours(state: MPS, terms_E44: jax.Array) -> jax.Array:
    """<psi|h_i|psi> / <psi|psi> of a Hermitian h_i on qubits i and i + 1, `[N - 1]`, real.

    All together cost what one string of Paulis costs.
    """
    tensors = state.tensors_NLPR

    def to_right(left_lL: jax.Array, tensor: jax.Array) -> tuple[jax.Array, jax.Array]:
        grown = jnp.einsum("lL,LPR,lPr->rR", left_lL, tensor, jnp.conj(tensor))
        return grown / _size(grown), left_lL

    def to_left(right_rR: jax.Array, tensor: jax.Array) -> tuple[jax.Array, jax.Array]:
        grown = jnp.einsum("rR,LPR,lPr->lL", right_rR, tensor, jnp.conj(tensor))
        return grown / _size(grown), right_rR

    _, lefts_NlL = jax.lax.scan(to_right, _corner(state), tensors)
    _, rights_NrR = jax.lax.scan(to_left, _corner(state), tensors, reverse=True)

    def term(
        left: jax.Array, first: jax.Array, second: jax.Array, right: jax.Array, h: jax.Array
    ) -> jax.Array:
        both = jnp.einsum("LPC,CQR->LPQR", first, second)
        around = jnp.einsum("lL,LPQR,rR->lPQr", left, both, right)
        acted = jnp.einsum("pqPQ,lPQr->lpqr", h.reshape(2, 2, 2, 2), around)
        above, below = (jnp.vdot(both, x) for x in (acted, around))
        return jnp.real(above) / jnp.real(below)

    return jax.vmap(term)(
        lefts_NlL[:-1], tensors[:-1], tensors[1:], rights_NrR[1:], terms_E44.astype(tensors.dtype)
    )


@partial(jax.jit, static_argnames="num_samples")
def mps_sample(state: MPS, key: jax.Array, *, num_samples: int) -> jax.Array:
    """Measures all qubits of a canonical state, `[num_samples, N]` of int32 0 and 1."""
    tensors = state.tensors_NLPR
    start = jnp.eye(1, state.max_bond, dtype=tensors.dtype)

    def step(given_SL: jax.Array, at: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        tensor, key = at
        both_SPR = jnp.einsum("SL,LPR->SPR", given_SL, tensor)
        weight_SP = jnp.sum(jnp.abs(both_SPR) ** 2, axis=2)
        drawn_S = jax.random.uniform(key, (num_samples,), weight_SP.dtype)
        bit_S = (drawn_S * jnp.sum(weight_SP, axis=1) >= weight_SP[:, 0]).astype(jnp.int32)
        chosen = jnp.take_along_axis(both_SPR, bit_S[:, None, None], axis=1)[:, 0]
        size_S = jnp.sqrt(jnp.take_along_axis(weight_SP, bit_S[:, None], axis=1))
        return chosen / size_S.astype(chosen.dtype), bit_S

    start_SL = jnp.broadcast_to(start, (num_samples, state.max_bond))
    keys = jax.random.split(key, state.num_qubits)
    _, bits_NS = jax.lax.scan(step, start_SL, (tensors, keys))
    return bits_NS.T


def _corner(state: MPS) -> jax.Array:
    """Of the outermost bonds, 0 alone."""
    found = np.zeros((state.max_bond, state.max_bond))
    found[0, 0] = 1.0
    return jnp.asarray(found, state.tensors_NLPR.dtype)


def _size(matrix: jax.Array) -> jax.Array:
    return jnp.linalg.norm(matrix).astype(matrix.dtype)
