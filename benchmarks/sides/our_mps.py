"""A brick wall of random two-qubit gates on our matrix product state."""

import jax
import numpy as np

from benchmarks.child import Answer, Spec, time_blocks
from rtdlm.modules.quantum.circuit import Circuit, op
from rtdlm.modules.quantum.mps_circuit import run_mps


def measure(spec: Spec) -> Answer:
    """Spec: `qubits`, `depth`, `max_bond`, `seconds`.

    Answer: `wall` and `cpu` of the whole circuit, compiled [s], `first_wall` and `first_cpu` with
    its compilation, and `fidelity_bound` of what it made.
    """
    circuit = brick_wall(spec["qubits"], spec["depth"])

    def advance(count: int) -> None:
        for _ in range(count):
            jax.block_until_ready(run_mps(circuit, max_bond=spec["max_bond"]))

    bound = run_mps(circuit, max_bond=spec["max_bond"]).fidelity_bound
    return time_blocks(advance, seconds=spec["seconds"]) | {"fidelity_bound": float(bound)}


def brick_wall(num_qubits: int, depth: int) -> Circuit:
    """Layers of random unitaries on all even, then on all odd neighbours, in turn."""
    rng = np.random.default_rng(0)
    ops = []
    for layer in range(depth):
        for qubit in range(layer % 2, num_qubits - 1, 2):
            drawn = rng.normal(size=(4, 4)) + 1j * rng.normal(size=(4, 4))
            ops.append(op(np.linalg.qr(drawn)[0], qubit, qubit + 1))
    return Circuit(num_qubits, tuple(ops))
