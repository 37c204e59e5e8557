"""Circuits on tree tensor networks: gates on any pair, truncation, and how much it discarded.

The centre is a tensor of three bonds and a fourth axis for the qubit that it carries. It moves to a
neighbour by cutting it in two (see `tensor_network_split`): an isometry stays, and what is cut off
goes over with the qubit, at most the chi largest singular values. A move costs O(chi^4) of products
and O(chi^3) of singular values; a gate takes at most 4 log2(n) moves, and those to where it starts.

Axes: M nodes, L R U a node's bonds to its left and right child and upwards, A B C its bonds in
another order, Q the carried qubit, P the qubit at a leaf, K a bond that was cut, G gates, T steps.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rtdlm.config import UserError
from rtdlm.modules.quantum.circuit import Circuit
from rtdlm.modules.quantum.tensor_network_gates import two_qubit_gates
from rtdlm.modules.quantum.tensor_network_split import Evolved, cut, dagger, orthonormal
from rtdlm.modules.quantum.ttn import TTN
from rtdlm.modules.quantum.ttn_plan import LEFT, MOVES, RIGHT, Plan, plan


@partial(jax.jit, static_argnames=("circuit", "max_bond"))
def run_ttn(
    circuit: Circuit,
    params: jax.Array | None = None,
    features: jax.Array | None = None,
    *,
    max_bond: int,
    threshold: float | jax.Array = 0.0,
    state: TTN | None = None,
) -> Evolved[TTN]:
    """What the circuit makes of a canonical state: canonical, of norm 1.

    Args:
        circuit: gates on one or two qubits each, any pair.
        params: `[num_rounds, num_params]`, radians; None without any.
        features: `[num_features]`; None without any.
        max_bond: chi, most singular values that are kept at a bond; at least 2.
        threshold: singular values up to this share of the state's norm are dropped, too.
        state: where it starts, its bonds of `max_bond`; None is |0...0>.

    Raises:
        UserError: a gate acts on three qubits or more, or the state is of another size.
    """
    qubits, gates_G44 = two_qubit_gates(
        circuit, params, features, None if state is None else state.nodes_MLRU
    )
    if state is None:
        state = TTN.basis([0] * circuit.num_qubits, max_bond=max_bond, dtype=gates_G44.dtype)
    if state.num_leaves < circuit.num_qubits or state.max_bond != max_bond:
        raise UserError(
            f"a state of {state.num_leaves} qubits and bonds of {state.max_bond} is given to a "
            f"circuit of {circuit.num_qubits} qubits with max_bond={max_bond}: make them fit"
        )
    steps = plan(qubits, state.num_leaves)
    return _run(state, gates_G44, steps, jnp.asarray(threshold, jnp.finfo(gates_G44.dtype).dtype))


def _run(state: TTN, gates_G44: jax.Array, steps: Plan, threshold: jax.Array) -> Evolved[TTN]:
    gates_G22 = gates_G44.reshape(-1, 2, 2, 2, 2)
    act = jax.checkpoint(partial(_act, threshold=threshold))

    def step(carried: "_Carried", at: Plan) -> tuple["_Carried", jax.Array]:
        nodes, centre = carried
        gate = gates_G22[at.gate]
        gate = jnp.where(at.flipped, gate.transpose(1, 0, 3, 2), gate)
        around = _Around(centre, nodes[at.node], nodes[at.centre], at.node == at.centre)
        left = act(at.kind, around, gate)
        return _Carried(nodes.at[at.node].set(left.node), left.centre), left.weight

    nodes = state.nodes_MLRU.astype(gates_G44.dtype)
    start = _Carried(nodes, jnp.stack([nodes[0], jnp.zeros_like(nodes[0])], -1))
    end, discarded_T = jax.lax.scan(step, start, steps)
    return Evolved(TTN(end.nodes.at[0].set(end.centre_LRUQ[..., 0])), discarded_T)


class _Carried(NamedTuple):
    nodes: jax.Array
    """All tensors; the one of the centre is out of date."""
    centre_LRUQ: jax.Array
    """With nothing carried, only Q = 0 is used."""


class _Around(NamedTuple):
    """What a step reads."""

    centre_LRUQ: jax.Array
    node_LRU: jax.Array
    """The tensor that will be written."""
    next_LRU: jax.Array
    """The tensor where the centre will be."""
    is_at_centre: jax.Array


class _Left(NamedTuple):
    """What a step leaves behind."""

    node: jax.Array
    centre: jax.Array
    weight: jax.Array


def _act(kind: jax.Array, around: _Around, gate: jax.Array, *, threshold: jax.Array) -> _Left:
    # In the order of `ttn_plan`'s kinds.
    forms: list[Callable[[_Around, jax.Array], _Left]] = [
        *(partial(_move, leave=leave, enter=enter, threshold=threshold) for leave, enter in MOVES),
        *(_on_centre(form, side) for form in (_lift, _put, _gate) for side in (LEFT, RIGHT)),
        *(partial(_local, side=side) for side in (LEFT, RIGHT)),
    ]
    left: _Left = jax.lax.switch(kind, forms, around, gate)
    return left


def _nothing(around: _Around) -> jax.Array:
    """The weight that a step discards if it does not cut."""
    return jnp.zeros((), jnp.finfo(around.centre_LRUQ.dtype).dtype)


def _move(
    around: _Around, gate: jax.Array, *, leave: int, enter: int, threshold: jax.Array
) -> _Left:
    centre_ABCQ = jnp.moveaxis(around.centre_LRUQ, leave, 2)
    chi = centre_ABCQ.shape[0]
    matrix = centre_ABCQ.reshape(chi * chi, 2 * chi)
    basis = orthonormal(matrix)
    space, rest, weight = cut(dagger(basis) @ matrix, keep=chi, threshold=threshold)
    node = jnp.moveaxis((basis @ space).reshape(chi, chi, chi), 2, leave)
    next_ABC = jnp.moveaxis(around.next_LRU, enter, 2)
    moved = jnp.einsum("ABC,KCQ->ABKQ", next_ABC, rest.reshape(chi, chi, 2))
    return _Left(node, jnp.moveaxis(moved, 2, enter), weight)


def _on_centre(
    form: Callable[[jax.Array, jax.Array], jax.Array], side: int
) -> Callable[[_Around, jax.Array], _Left]:
    def on_centre(around: _Around, gate: jax.Array) -> _Left:
        acted = form(jnp.moveaxis(around.centre_LRUQ, side, 0), gate)
        centre = jnp.moveaxis(acted, 0, side)
        return _Left(around.node_LRU, centre, _nothing(around))

    return on_centre


def _lift(centre_PABQ: jax.Array, gate: jax.Array) -> jax.Array:
    """The leaf is left at |0>."""
    lifted = jnp.moveaxis(centre_PABQ[:2, :, :, 0], 0, -1)
    return jnp.zeros_like(centre_PABQ).at[0].set(lifted)


def _put(centre_PABQ: jax.Array, gate: jax.Array) -> jax.Array:
    given = jnp.moveaxis(centre_PABQ[0], -1, 0)
    return jnp.zeros_like(centre_PABQ).at[:2, :, :, 0].set(given)


def _gate(centre_PABQ: jax.Array, gate: jax.Array) -> jax.Array:
    acted = jnp.einsum("qpQP,PABQ->pABq", gate, centre_PABQ[:2])
    return centre_PABQ.at[:2].set(acted)


def _local(around: _Around, gate: jax.Array, *, side: int) -> _Left:
    single = gate[:, 0, :, 0]

    def act(tensor: jax.Array) -> jax.Array:
        leaf_first = jnp.moveaxis(tensor, side, 0)
        acted = jnp.einsum("pP,P...->p...", single, leaf_first[:2])
        return jnp.moveaxis(leaf_first.at[:2].set(acted), 0, side)

    centre = jnp.where(around.is_at_centre, act(around.centre_LRUQ), around.centre_LRUQ)
    return _Left(act(around.node_LRU), centre, _nothing(around))
