"""Circuits on matrix product states: gates, truncation, and how much it discarded.

A gate G on neighbours i, i + 1 that hold the centre: contract both tensors and G to a matrix of
(left bond, qubit) by (qubit, right bond), cut it to the largest singular values (`cut`), normalise.
Being canonical makes that the best cut of the whole state. One gate costs O(chi^3); a gate on
qubits d apart costs up to d of them (see `mps_plan`). On a processor LAPACK is what takes the time,
and matrices this small gain nothing from its threads, which stand in each other's way where cores
are shared: set OPENBLAS_NUM_THREADS=1.

Axes: N qubits, L left bond, P Q the two qubits' values, R right bond, G gates, T steps.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from rtdlm.config import UserError
from rtdlm.modules.quantum.circuit import Circuit
from rtdlm.modules.quantum.mps import MPS
from rtdlm.modules.quantum.mps_plan import Plan, plan
from rtdlm.modules.quantum.tensor_network_gates import two_qubit_gates
from rtdlm.modules.quantum.tensor_network_split import Evolved, cut, dagger, orthonormal


@partial(jax.jit, static_argnames=("circuit", "max_bond"))
def run_mps(
    circuit: Circuit,
    params: jax.Array | None = None,
    features: jax.Array | None = None,
    *,
    max_bond: int,
    threshold: float | jax.Array = 0.0,
    state: MPS | None = None,
) -> Evolved[MPS]:
    """What the circuit makes of a canonical state: canonical, of norm 1.

    Args:
        circuit: gates on one or two qubits each, any pair.
        params: `[num_rounds, num_params]`, radians; None without any.
        features: `[num_features]`; None without any.
        max_bond: chi, most singular values that are kept at a bond; exact at 2^(n // 2).
        threshold: singular values up to this share of the state's norm are dropped, too.
        state: where it starts, its bonds of `max_bond`; None is |0...0>.

    Raises:
        UserError: a gate acts on three qubits or more, or the state is of another size.
    """
    qubits, gates_G44 = two_qubit_gates(
        circuit, params, features, None if state is None else state.tensors_NLPR
    )
    if state is None:
        state = MPS.basis([0] * circuit.num_qubits, max_bond=max_bond, dtype=gates_G44.dtype)
    if (state.num_qubits, state.max_bond) != (circuit.num_qubits, max_bond):
        raise UserError(
            f"a state of {state.num_qubits} qubits and bonds of {state.max_bond} is given to a "
            f"circuit of {circuit.num_qubits} qubits with max_bond={max_bond}: make them equal"
        )
    return _run(state, gates_G44, plan(qubits, circuit.num_qubits), threshold)


def _run(
    state: MPS, gates_G44: jax.Array, steps: Plan, threshold: float | jax.Array
) -> Evolved[MPS]:
    gates_G22 = gates_G44.reshape(-1, 2, 2, 2, 2)
    at_least = jnp.asarray(threshold, jnp.finfo(gates_G44.dtype).dtype)
    forms = [_gate, _move, _local]
    branches = [partial(f, threshold=at_least) for form in forms for f in (form, _mirrored(form))]

    @jax.checkpoint
    def act(kind: jax.Array, pair: jax.Array, gate: jax.Array) -> tuple[jax.Array, jax.Array]:
        left, right, weight = jax.lax.switch(kind, branches, pair[0], pair[1], gate)
        return jnp.stack([left, right]), weight

    def step(tensors_NLPR: jax.Array, at: Plan) -> tuple[jax.Array, jax.Array]:
        gate = gates_G22[at.gate]
        gate = jnp.where(at.flipped, _flipped(gate), gate)
        pair = jax.lax.dynamic_slice_in_dim(tensors_NLPR, at.site, 2)
        pair, weight = act(at.kind, pair, gate)
        return jax.lax.dynamic_update_slice_in_dim(tensors_NLPR, pair, at.site, 0), weight

    tensors, discarded_T = jax.lax.scan(step, state.tensors_NLPR.astype(gates_G44.dtype), steps)
    return Evolved(MPS(tensors), discarded_T)


Pair = tuple[jax.Array, jax.Array, jax.Array]
"""Both tensors, and the weight that was discarded."""
Form = Callable[..., Pair]


def _gate(left_LPC: jax.Array, right_CQR: jax.Array, gate: jax.Array, threshold: jax.Array) -> Pair:
    """The centre ends at the right."""
    chi = left_LPC.shape[0]
    both_LPQR = jnp.einsum("LPC,CQR->LPQR", left_LPC, right_CQR)
    both_LPQR = jnp.einsum("pqPQ,LPQR->LpqR", gate, both_LPQR)
    matrix = both_LPQR.reshape(2 * chi, 2 * chi)
    space, rest, weight = cut(matrix, keep=chi, threshold=threshold)
    return space.reshape(chi, 2, chi), rest.reshape(chi, 2, chi), weight


def _move(left_LPC: jax.Array, right_CQR: jax.Array, gate: jax.Array, threshold: jax.Array) -> Pair:
    """The centre goes from left to right."""
    tall = left_LPC.reshape(-1, left_LPC.shape[2])
    basis = orthonormal(tall)
    right = jnp.einsum("DC,CQR->DQR", dagger(basis) @ tall, right_CQR)
    return basis.reshape(left_LPC.shape), right, jnp.zeros_like(threshold)


def _local(
    left_LPC: jax.Array, right_CQR: jax.Array, gate: jax.Array, threshold: jax.Array
) -> Pair:
    """On the right qubit alone."""
    right = jnp.einsum("qQ,CQR->CqR", gate[0, :, 0], right_CQR)
    return left_LPC, right, jnp.zeros_like(threshold)


def _mirrored(form: Form) -> Form:
    def mirrored(left: jax.Array, right: jax.Array, gate: jax.Array, threshold: jax.Array) -> Pair:
        new_right, new_left, weight = form(
            right.transpose(2, 1, 0), left.transpose(2, 1, 0), _flipped(gate), threshold
        )
        return new_left.transpose(2, 1, 0), new_right.transpose(2, 1, 0), weight

    return mirrored


def _flipped(gate: jax.Array) -> jax.Array:
    """The gate with its qubits in the other order."""
    return gate.transpose(1, 0, 3, 2)
