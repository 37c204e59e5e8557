"""Qiskit Aer's side of the quantum benchmark: its state vector, fused, without a gradient.

The circuit is built once, with its angles in it: what is timed is the simulation alone.
"""

from qiskit import QuantumCircuit
from qiskit.quantum_info import SparsePauliOp
from qiskit_aer import AerSimulator

from benchmarks.child import Answer, Spec, time_blocks
from benchmarks.sides.quantum_circuit import angles, answer


def measure(spec: Spec) -> Answer:
    """See `quantum_circuit`."""
    num_qubits = spec["num_qubits"]
    simulator = AerSimulator(
        method="statevector", precision="single", fusion_enable=True,
        max_parallel_threads=spec["threads"],
    )  # fmt: skip
    circuit = QuantumCircuit(num_qubits)
    for layer in angles(spec):
        for qubit, (first, second) in enumerate(layer):
            circuit.ry(float(first), qubit)
            circuit.rz(float(second), qubit)
        for qubit in range(num_qubits):
            circuit.cx(qubit, (qubit + 1) % num_qubits)
    observable = SparsePauliOp("I" * (num_qubits - 1) + "Z")
    circuit.save_expectation_value(observable, range(num_qubits), label="value")

    def value() -> float:
        return float(simulator.run(circuit).result().data()["value"])

    def advance(count: int) -> None:
        for _ in range(count):
            value()

    return answer(time_blocks(advance, seconds=spec["seconds"]), value(), None)
