"""What is measured of a tree tensor network: expectations and samples.

Expectations contract <psi| and |psi> from the leaves to the root, <O> = <psi|O|psi> / <psi|psi>,
for any tensors. Samples are exact and independent (arXiv 1201.3974): qubit by qubit, the state of
one given those before it is what comes down to its leaf from the root, with every subtree beside
the way contracted over itself. A string costs O(n chi^4), a sample O(n log(n) chi^4).

Axes: N leaves, S strings or samples, U a node's upper bond, C the bond to the child that is looked
at, O to the other one; of <psi| the same in small letters.
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np

from rtdlm.modules.quantum.pauli import PauliSum
from rtdlm.modules.quantum.tensor_network_paulis import pauli_matrices
from rtdlm.modules.quantum.ttn import TTN, over_leaves


def ttn_expectations(state: TTN, strings: Sequence[str]) -> jax.Array:
    """<psi|O|psi> / <psi|psi> of products of Paulis, `[len(strings)]`, real.

    Args:
        state: any tensors that do not contract to zero.
        strings: a letter of IXYZ for every leaf each, or for the first ones, qubit 0 first.

    Raises:
        UserError: a string is too long or has another letter.
    """
    # <psi|psi> is one more string, and what the others are divided by.
    return _products(state, pauli_matrices([*strings, ""], state.num_leaves))


@jax.jit
def _products(state: TTN, leaves_SNPP: jax.Array) -> jax.Array:
    """All strings but the last, over the last."""
    leaves = leaves_SNPP.astype(state.nodes_MLRU.dtype)
    found_S = jnp.real(over_leaves(state, leaves)[-1][:, 0, 0, 0])
    return found_S[:-1] / found_S[-1]


def ttn_energy(state: TTN, observable: PauliSum) -> jax.Array:
    """The expectation value of a weighted sum, a number."""
    values = ttn_expectations(state, observable.strings)
    return jnp.sum(jnp.asarray(observable.weights, values.dtype) * values)


@partial(jax.jit, static_argnames="num_samples")
def ttn_sample(state: TTN, key: jax.Array, *, num_samples: int) -> jax.Array:
    """Measures all leaves, `[num_samples, N]` of int32 0 and 1; of any tensors, normed or not."""
    leaves = pauli_matrices([""], state.num_leaves).astype(state.nodes_MLRU.dtype)
    # In the order of nodes, leaves after them: 2m + 1 and 2m + 2 are below m.
    below = jnp.concatenate([row[0] for row in reversed(over_leaves(state, leaves))])
    keys = jax.random.split(key, num_samples)
    return jax.vmap(lambda key: _sample(state, below, key))(keys)


def _sample(state: TTN, below: jax.Array, key: jax.Array) -> jax.Array:
    """One sample, `[N]`."""
    depth = state.num_leaves.bit_length() - 1
    first_leaf = state.num_leaves - 1

    def step(below: jax.Array, at: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        qubit, key = at
        way = [((first_leaf + qubit + 1) >> (depth - row)) - 1 for row in range(depth + 1)]
        down_Uu = _corner(state)
        for node, child in pairwise(way):
            tensor_COU, beside = _seen_from(state, child, node)
            half = jnp.einsum("COU,Uu,oO->Cou", tensor_COU, down_Uu, below[beside])
            down_Cc = jnp.einsum("Cou,cou->Cc", half, jnp.conj(tensor_COU))
            down_Uu = down_Cc / jnp.trace(down_Cc)
        chances = jnp.real(jnp.diagonal(down_Uu))
        bit = (jax.random.uniform(key, (), chances.dtype) >= chances[0]).astype(jnp.int32)
        below = below.at[way[-1]].set(jnp.zeros_like(below[0]).at[bit, bit].set(1))
        for node, child in reversed(list(pairwise(way))):
            tensor_COU, beside = _seen_from(state, child, node)
            half = jnp.einsum("COU,cC,oO->coU", tensor_COU, below[child], below[beside])
            up_uU = jnp.einsum("coU,cou->uU", half, jnp.conj(tensor_COU))
            below = below.at[node].set(up_uU / jnp.trace(up_uU))
        return below, bit

    qubits = jnp.arange(state.num_leaves)
    _, bits_N = jax.lax.scan(step, below, (qubits, jax.random.split(key, state.num_leaves)))
    return bits_N


def _seen_from(state: TTN, child: jax.Array, node: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A node's tensor with the child's bond first, and the other child."""
    tensor = state.nodes_MLRU[node]
    is_left = child % 2 == 1
    seen = jnp.where(is_left, tensor, tensor.swapaxes(0, 1))
    return seen, jnp.where(is_left, child + 1, child - 1)


def _corner(state: TTN) -> jax.Array:
    """Of the root's upper bond, 0 alone."""
    found = np.zeros((state.max_bond, state.max_bond))
    found[0, 0] = 1.0
    return jnp.asarray(found, state.nodes_MLRU.dtype)
