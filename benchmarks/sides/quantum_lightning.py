"""PennyLane's side of the quantum benchmark: `lightning.qubit`, by adjoint differentiation."""

import numpy as np
import pennylane as qml

from benchmarks.child import Answer, Spec, time_blocks
from benchmarks.sides.quantum_circuit import angles, answer


def measure(spec: Spec) -> Answer:
    """See `quantum_circuit`."""
    num_qubits = spec["num_qubits"]
    device = qml.device("lightning.qubit", wires=num_qubits, c_dtype=np.complex64)

    @qml.qnode(device, diff_method="adjoint")  # type: ignore[untyped-decorator,unused-ignore]
    def value(turns: qml.numpy.tensor) -> object:
        for layer in turns:
            for qubit, (first, second) in enumerate(layer):
                qml.RY(first, qubit)
                qml.RZ(second, qubit)
            for qubit in range(num_qubits):
                qml.CNOT([qubit, (qubit + 1) % num_qubits])
        return qml.expval(qml.PauliZ(0))

    given = qml.numpy.array(angles(spec), requires_grad=spec["gradient"])
    program = qml.grad(value) if spec["gradient"] else value

    def advance(count: int) -> None:
        for _ in range(count):
            program(given)

    times = time_blocks(advance, seconds=spec["seconds"])
    return answer(times, value(given), program(given) if spec["gradient"] else None)
