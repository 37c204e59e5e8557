"""Circuits to test with, and what they do, by the slowest way that there is."""

import math
from itertools import count

import jax
import jax.numpy as jnp
import numpy as np

from rtdlm.modules.quantum.circuit import Angle, Circuit, op
from rtdlm.modules.quantum.gates import GATES

CLIFFORD = ("H", "X", "Y", "Z", "S", "CNOT", "CZ", "SWAP")


def unitary(rng, num_qubits):
    shape = (2**num_qubits, 2**num_qubits)
    return np.linalg.qr(rng.normal(size=shape) + 1j * rng.normal(size=shape))[0]


def random_circuit(rng, num_qubits, num_ops, *, gates=None, num_rounds=1):
    """Each gate in turn on qubits drawn in any order, every angle a parameter; and any matrices."""
    names = [name for name, gate in GATES.items() if gate.num_qubits <= num_qubits]
    names = list(gates) if gates else [*names, 1, min(num_qubits, 3)]
    params, ops = count(), []
    for turn in range(num_ops):
        name = names[turn % len(names)]
        gate = unitary(rng, name) if isinstance(name, int) else name
        size, angles = (name, 0) if isinstance(name, int) else GATES[name][:2]
        qubits = rng.choice(num_qubits, size, replace=False).tolist()
        ops.append(op(gate, *qubits, angles=[Angle(param=next(params)) for _ in range(angles)]))
    rng.shuffle(ops)
    return Circuit(num_qubits, tuple(ops), num_rounds)


def random_params(rng, circuit):
    shape = (circuit.num_rounds, circuit.num_params)
    return jnp.asarray(rng.uniform(-math.pi, math.pi, shape), jnp.float32)


def random_state(rng, num_qubits, dtype=np.complex64):
    state = rng.normal(size=2**num_qubits) + 1j * rng.normal(size=2**num_qubits)
    return jnp.asarray(state / np.linalg.norm(state), dtype)


def fidelity(a, b):
    a, b = (np.asarray(x, np.complex128) for x in (a, b))
    return abs(np.vdot(a, b)) ** 2 / (np.vdot(a, a) * np.vdot(b, b)).real


def act(matrix, state, qubits):
    """`[2^n]`, any number of axes behind it: gate by gate, one axis a qubit; NumPy or JAX."""
    module = jnp if isinstance(state, jax.Array) or isinstance(matrix, jax.Array) else np
    size, num_qubits = len(qubits), len(state).bit_length() - 1
    tensor = state.reshape(*[2] * num_qubits, *state.shape[1:])
    gate = matrix.reshape([2] * (2 * size))
    done = module.tensordot(gate, tensor, (list(range(size, 2 * size)), list(qubits)))
    return module.moveaxis(done, range(size), qubits).reshape(state.shape)
