"""Tree tensor networks: n qubits as the leaves of a binary tree (arXiv quant-ph/0511070).

    <b| psi> = sum over all bonds of the product of T_m[left child, right child, parent]

with qubits for children in the lowest row. Any two qubits are at most 2 log2(n) bonds apart, which
a chain's are not. A tree has 2^d leaves; a state of fewer qubits has |0> on the rest. Node 0 is the
root, of whose upper bond only 0 is used, and nodes 2m + 1 and 2m + 2 are the children of node m. As
in a chain, all bonds have the room of the largest. States made here are canonical, with the centre
at the root: every other tensor is an isometry from its parent's bond to its children's.

Axes: M nodes, L left child's bond, R right child's bond, U upper bond, N leaves, S products; of
<psi| the same in small letters.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from rtdlm.config import UserError


class TTN(NamedTuple):
    """A state as a tree of tensors."""

    nodes_MLRU: jax.Array

    @classmethod
    def basis(cls, bits: Sequence[int], *, max_bond: int, dtype: Any = jnp.complex64) -> Self:
        """The basis state |bits>, followed by zeros, on the smallest tree that has room for it.

        Raises:
            UserError: there are fewer than 2 qubits, or `max_bond` is less than 2.
        """
        if len(bits) < 2 or max_bond < 2:
            raise UserError(
                f"a tree of {len(bits)} qubits with max_bond={max_bond}: expected at least 2 "
                "qubits and bonds of at least 2, since a qubit is a bond as well"
            )
        num_leaves = 1 << (len(bits) - 1).bit_length()
        values = np.zeros(num_leaves, np.int64)
        values[: len(bits)] = bits
        nodes = np.zeros((num_leaves - 1, max_bond, max_bond, max_bond), np.float32)
        nodes[: num_leaves // 2 - 1, 0, 0, 0] = 1.0
        lowest = np.arange(num_leaves // 2 - 1, num_leaves - 1)
        nodes[lowest, values[::2], values[1::2], 0] = 1.0
        return cls(jnp.asarray(nodes, dtype))

    @property
    def num_leaves(self) -> int:
        """Qubits, those that were added included."""
        return self.nodes_MLRU.shape[0] + 1

    @property
    def max_bond(self) -> int:
        """What a bond has room for."""
        return self.nodes_MLRU.shape[1]

    def rows(self) -> list[jax.Array]:
        """The tensors row by row, the lowest first."""
        starts = [2**depth - 1 for depth in range(self.num_leaves.bit_length() - 1)]
        return [self.nodes_MLRU[start : 2 * start + 1] for start in reversed(starts)]


def ttn_amplitude(state: TTN, bits_N: jax.Array) -> jax.Array:
    """<bits|psi> of one basis state, all leaves' 0 and 1; O(n chi^3). `jax.vmap` it for many."""
    vectors = jax.nn.one_hot(bits_N, state.max_bond, dtype=state.nodes_MLRU.dtype)
    for row in state.rows():
        half = jnp.einsum("MLRU,ML->MRU", row, vectors[::2])
        vectors = jnp.einsum("MRU,MR->MU", half, vectors[1::2])
    return vectors[0, 0]


@jax.jit
def ttn_to_statevector(state: TTN) -> jax.Array:
    """All amplitudes `[2^leaves]`, qubit 0 the most significant: for few qubits."""
    count = state.num_leaves
    numbers = jnp.arange(2**count)[:, None]
    bits = (numbers >> jnp.arange(count)[::-1][None]) & 1
    return jax.vmap(ttn_amplitude, in_axes=(None, 0))(state, bits)


def over_leaves(state: TTN, leaves_SNlr: jax.Array) -> list[jax.Array]:
    """<psi|O|psi> below each node, `[S, M, u, U]` row by row: leaves first, the root last.

    Each O is a product of a matrix `[2, 2]` at every leaf. At each node all are divided by the norm
    of the last, so that hundreds of qubits neither over- nor underflow. O(n chi^4) each.
    """
    missing = state.max_bond - 2
    found = [jnp.pad(leaves_SNlr, ((0, 0), (0, 0), (0, missing), (0, missing)))]
    for row_MLRU in state.rows():
        half = jnp.einsum("MLRU,SMlL->SMlRU", row_MLRU, found[-1][:, ::2])
        half = jnp.einsum("SMlRU,SMrR->SMlrU", half, found[-1][:, 1::2])
        whole = jnp.einsum("SMlrU,Mlru->SMuU", half, jnp.conj(row_MLRU))
        size = jnp.linalg.norm(whole[-1:], axis=(2, 3), keepdims=True)
        found.append(whole / size.astype(whole.dtype))
    return found
