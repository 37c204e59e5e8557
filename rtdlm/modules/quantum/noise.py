"""Noise by trajectories: pure states whose mean is the density matrix of the noisy circuit.

A channel is Kraus operators K_i with sum K_i^+ K_i = 1. On a trajectory one of them acts, with

    s' = K_i s / sqrt(w_i)        w_i = |K_i s|^2 = tr(K_i r K_i^+)

r being the reduced density matrix of the qubit: the mean of |s'><s'| over i is sum K_i |s><s| K_i^+
(Dalibard, Castin, Molmer, PRL 68, 580). Noise comes after every gate, on each of its qubits.

Axes: N = 2^n amplitudes, K Kraus operators, R rounds.
"""

import jax
import jax.numpy as jnp
import numpy as np

from rtdlm.config import UserError
from rtdlm.modules.quantum.axes import rows, unrows
from rtdlm.modules.quantum.circuit import Circuit, matrices
from rtdlm.modules.quantum.gates import PAULIS, Complex, complex_of
from rtdlm.modules.quantum.statevector import start_state


def depolarising(probability: float) -> Complex:
    """`[4, 2, 2]`: with this probability nothing is left of the qubit but a fair coin."""
    _check("depolarising", probability)
    shares = [1 - 3 * probability / 4, *[probability / 4] * 3]
    return np.stack(
        [np.sqrt(share) * PAULIS[name] for share, name in zip(shares, "IXYZ", strict=True)]
    )


def amplitude_damping(probability: float) -> Complex:
    """`[2, 2, 2]`: a 1 falls to 0 with this probability."""
    _check("amplitude_damping", probability)
    kept, lost = np.sqrt(1 - probability), np.sqrt(probability)
    return np.array([[[1, 0], [0, kept]], [[0, lost], [0, 0]]], np.complex128)


def phase_damping(probability: float) -> Complex:
    """`[2, 2, 2]`: a 1 is found out with this probability, which 0 and 1 in sum lose phase by."""
    _check("phase_damping", probability)
    kept, lost = np.sqrt(1 - probability), np.sqrt(probability)
    return np.array([[[1, 0], [0, kept]], [[0, 0], [0, lost]]], np.complex128)


def disturb(state_N: jax.Array, key: jax.Array, kraus: Complex, *, qubit: int) -> jax.Array:
    """The state after one channel on one qubit, drawn.

    Args:
        state_N: complex, of norm 1.
        key: a random key.
        kraus: `[K, 2, 2]`.
        qubit: which.

    Raises:
        UserError: there is no such qubit.
    """
    rows_2W = rows(state_N, [qubit])
    kraus_K22 = jnp.asarray(kraus, state_N.dtype)
    reduced_22 = jnp.matmul(rows_2W, rows_2W.conj().T, precision="highest")
    weights_K = jnp.einsum("kij,jl,kil->k", kraus_K22, reduced_22, kraus_K22.conj()).real
    chosen = jax.random.categorical(key, jnp.log(jnp.maximum(weights_K, 0)))
    factor = jax.lax.rsqrt(weights_K[chosen]).astype(state_N.dtype)
    return unrows(jnp.matmul(kraus_K22[chosen] * factor, rows_2W, precision="highest"), [qubit])


def run_noisy(
    circuit: Circuit,
    key: jax.Array,
    kraus: Complex,
    params: jax.Array | None = None,
    features: jax.Array | None = None,
    *,
    state: jax.Array | None = None,
) -> jax.Array:
    """One trajectory: the state that a circuit leaves, with a channel after every gate.

    For many, `jax.vmap` over keys. Everything but the keys and the channel is as in `run`.

    Args:
        circuit: the circuit.
        key: a random key.
        kraus: `[K, 2, 2]`, one of the channels above, or any other.
        params: `[num_rounds, num_params]`, or `[num_params]` for one round; None without any.
        features: `[num_features]`; None without any.
        state: complex `[N]`, of norm 1; None is |0...0>.

    Raises:
        UserError: something has another shape than these.
    """
    dtype = None if state is None else complex_of(state.dtype)
    made = matrices(circuit, params, features, dtype=dtype)
    state = start_state(circuit, made, state)

    def round_of(
        state_N: jax.Array, given: tuple[jax.Array, list[jax.Array]]
    ) -> tuple[jax.Array, None]:
        key, made = given
        for number, (each, matrix) in enumerate(zip(circuit.ops, made, strict=True)):
            done = jnp.matmul(matrix, rows(state_N, each.qubits), precision="highest")
            state_N = unrows(done, each.qubits)
            for place, qubit in enumerate(each.qubits):
                own = jax.random.fold_in(jax.random.fold_in(key, number), place)
                state_N = disturb(state_N, own, kraus, qubit=qubit)
        return state_N, None

    keys_R = jax.random.split(key, circuit.num_rounds)
    return jax.lax.scan(round_of, state, (keys_R, made))[0]


def _check(name: str, probability: float) -> None:
    if not 0 <= probability <= 1:
        raise UserError(f"{name} of {probability}: expected a probability, from 0 to 1")
