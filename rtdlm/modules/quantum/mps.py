"""Matrix product states: n qubits as a chain of n tensors (arXiv quant-ph/0301063, 1008.3477).

    <b_0 ... b_{n-1} | psi> = A_0[:, b_0, :] A_1[:, b_1, :] ... A_{n-1}[:, b_{n-1}, :]

from bond 0 of the first tensor to bond 0 of the last. All tensors have the bonds of the largest,
and what a bond does not use is zero on one of its sides: one shape, and so one compiled program,
whatever the entanglement. States made here are canonical, with the centre at qubit 0: summed over
its qubit and right bond, every other tensor is an isometry, so that A_0 alone has the norm.

Axes: N qubits, L left bond, P qubit's value, R right bond, C a bond, B batch of basis states.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from rtdlm.config import UserError
from rtdlm.modules.quantum.tensor_network_split import dagger, orthonormal


class MPS(NamedTuple):
    """A state as a chain of tensors."""

    tensors_NLPR: jax.Array

    @classmethod
    def basis(cls, bits: Sequence[int], *, max_bond: int, dtype: Any = jnp.complex64) -> Self:
        """The basis state |bits>, bits being 0 or 1.

        Raises:
            UserError: there are fewer than 2 qubits, or `max_bond` is less than 1.
        """
        if len(bits) < 2 or max_bond < 1:
            raise UserError(
                f"a chain of {len(bits)} qubits with max_bond={max_bond}: expected at least 2 "
                "qubits and bonds of at least 1; a single qubit needs no tensor network"
            )
        tensors = np.zeros((len(bits), max_bond, 2, max_bond), np.float32)
        tensors[np.arange(len(bits)), 0, list(bits), 0] = 1.0
        return cls(jnp.asarray(tensors, dtype))

    @property
    def num_qubits(self) -> int:
        """Length of the chain."""
        return self.tensors_NLPR.shape[0]

    @property
    def max_bond(self) -> int:
        """What a bond has room for."""
        return self.tensors_NLPR.shape[1]


@jax.jit
def mps_canonical(state: MPS) -> MPS:
    """The same state, canonical with the centre at qubit 0 and norm 1.

    For tensors from elsewhere, as parameters are; costs O(n chi^3).
    """
    tensors = state.tensors_NLPR
    chi = state.max_bond
    # What bond 0 of the last tensor does not read is no part of the state.
    tensors = tensors.at[-1, :, :, 1:].set(0).at[0, 1:].set(0)

    def step(carried_RR: jax.Array, tensor_LPR: jax.Array) -> tuple[jax.Array, jax.Array]:
        tall = (tensor_LPR @ carried_RR).reshape(chi, 2 * chi).T
        basis = orthonormal(tall)
        carried = (dagger(basis) @ tall).T
        return carried / jnp.linalg.norm(carried).astype(tall.dtype), basis.T.reshape(chi, 2, chi)

    start = jnp.eye(chi, dtype=tensors.dtype)
    carried, rest = jax.lax.scan(step, start, tensors[1:], reverse=True)
    first = tensors[0] @ carried
    first = first / jnp.linalg.norm(first).astype(first.dtype)
    return MPS(jnp.concatenate([first[None], rest]))


@jax.jit
def mps_to_statevector(state: MPS) -> jax.Array:
    """All amplitudes `[2^n]`, qubit 0 the most significant: for few qubits."""
    chi = state.max_bond
    found_BC = jnp.eye(1, chi, dtype=state.tensors_NLPR.dtype)
    for tensor_LPR in state.tensors_NLPR:
        found_BC = jnp.einsum("BL,LPR->BPR", found_BC, tensor_LPR).reshape(-1, chi)
    return found_BC[:, 0]


def mps_from_statevector(
    amplitudes: ArrayLike, *, max_bond: int, threshold: float = 0.0
) -> tuple[MPS, jax.Array]:
    """A chain for the normalised `amplitudes` `[2^n]`, and the weights discarded, bond by bond.

    By NumPy, and so not for use in `jax.jit`.

    Raises:
        UserError: there are not 2^n amplitudes with n at least 2.
    """
    num_qubits = np.size(amplitudes).bit_length() - 1
    if np.shape(amplitudes) != (2**num_qubits,) or num_qubits < 2:
        raise UserError(
            f"amplitudes have shape {np.shape(amplitudes)}: expected [2^n] for 2 qubits or more"
        )
    rest_BR, tensors, weights = np.asarray(amplitudes)[:, None], [], []
    for _ in range(num_qubits - 1):
        # From the last qubit to the first: what is cut off is an isometry.
        matrix = rest_BR.reshape(len(rest_BR) // 2, -1)
        space, values, rows = np.linalg.svd(matrix, full_matrices=False)
        share = values / np.linalg.norm(values)
        keep = max(1, min(max_bond, int((share > threshold).sum())))
        weights.append((share[keep:] ** 2).sum())
        tensors.append(_padded(rows[:keep].reshape(keep, 2, -1), max_bond))
        rest_BR = space[:, :keep] * (values[:keep] / np.linalg.norm(values[:keep]))
    tensors.append(_padded(rest_BR[None], max_bond))
    return MPS(jnp.asarray(np.stack(tensors[::-1]))), jnp.asarray(np.stack(weights))


def _padded(tensor: np.ndarray[Any, Any], max_bond: int) -> np.ndarray[Any, Any]:
    left, _, right = tensor.shape
    return np.pad(tensor, ((0, max_bond - left), (0, 0), (0, max_bond - right)))


def mps_amplitude(state: MPS, bits_N: jax.Array) -> jax.Array:
    """<bits|psi> of one basis state, `[N]` of 0 and 1; O(n chi^2). `jax.vmap` it for many."""
    start = jnp.eye(1, state.max_bond, dtype=state.tensors_NLPR.dtype)[0]

    def step(carried_L: jax.Array, given: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        tensor_LPR, bit = given
        return carried_L @ tensor_LPR[:, bit], None

    end, _ = jax.lax.scan(step, start, (state.tensors_NLPR, bits_N))
    return end[0]
