"""TensorCircuit's side of the quantum benchmark. Spec: also `backend`, "jax" (jitted) or "numpy".

NumPy has no gradient.
"""

from typing import Any

import tensorcircuit

from benchmarks.child import Answer, Spec, time_blocks
from benchmarks.sides.quantum_circuit import angles, answer


def measure(spec: Spec) -> Answer:
    """See `quantum_circuit`."""
    backend = tensorcircuit.set_backend(spec["backend"])
    tensorcircuit.set_dtype("complex64")
    num_qubits = spec["num_qubits"]

    def value(turns: Any) -> Any:
        circuit = tensorcircuit.Circuit(num_qubits)
        for layer in range(spec["num_layers"]):
            for qubit in range(num_qubits):
                circuit.ry(qubit, theta=turns[layer, qubit, 0])
                circuit.rz(qubit, theta=turns[layer, qubit, 1])
            for qubit in range(num_qubits):
                circuit.cnot(qubit, (qubit + 1) % num_qubits)
        return backend.real(circuit.expectation_ps(z=[0]))

    program = backend.value_and_grad(value) if spec["gradient"] else value
    program = backend.jit(program) if spec["backend"] == "jax" else program
    given = backend.convert_to_tensor(angles(spec))

    def advance(count: int) -> None:
        for _ in range(count):
            found = program(given)
            # JAX answers before it is done.
            float(found[0] if spec["gradient"] else found)

    times = time_blocks(advance, seconds=spec["seconds"])
    return answer(times, *(program(given) if spec["gradient"] else (program(given), None)))
