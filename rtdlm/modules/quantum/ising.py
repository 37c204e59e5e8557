"""The transverse-field Ising ring, a Hamiltonian whose ground state is known.

    H = -sum_q Z_q Z_(q+1) - g sum_q X_q        E = -sum_k sqrt(1 + g^2 - 2 g cos k)

with k = (2m + 1) pi / n for m < n, n even (Pfeuty, Annals of Physics 57, 79). The Hamiltonian
variational ansatz turns by the two sums in turn, from the state of all X = 1 (arXiv 1507.08969):
with n / 2 rounds it reaches the ground state at g = 1 (arXiv 1803.00026).
"""

import numpy as np

from rtdlm.config import UserError
from rtdlm.modules.quantum.circuit import Angle, Circuit, op
from rtdlm.modules.quantum.pauli import PauliSum


def ising_ring(num_qubits: int, *, field: float) -> PauliSum:
    """H, for three or more qubits.

    Raises:
        UserError: there are fewer, whose ring would name a pair twice.
    """
    if num_qubits < 3:
        raise UserError(f"a ring of {num_qubits} qubits: expected 3 or more")
    pairs = [_string(num_qubits, "Z", q, (q + 1) % num_qubits) for q in range(num_qubits)]
    singles = [_string(num_qubits, "X", q) for q in range(num_qubits)]
    weights = [-1.0] * num_qubits + [-float(field)] * num_qubits
    return PauliSum(tuple(weights), (*pairs, *singles))


def ising_ground_energy(num_qubits: int, *, field: float) -> float:
    """E, for an even number of qubits.

    Raises:
        UserError: the number is odd, for which this form does not hold.
    """
    if num_qubits % 2:
        raise UserError(f"the closed form of {num_qubits} qubits: expected an even number")
    k = (2 * np.arange(num_qubits) + 1) * np.pi / num_qubits
    return float(-np.sqrt(1 + field**2 - 2 * field * np.cos(k)).sum())


def ising_ansatz(num_qubits: int, *, num_rounds: int) -> tuple[Circuit, Circuit]:
    """The circuit that makes all X = 1, and that which is to follow, with 2 parameters a round."""
    begin = Circuit(num_qubits, tuple(op("H", qubit) for qubit in range(num_qubits)))
    pairs, single = [Angle(param=0)], [Angle(param=1)]
    ops = [op("RZZ", q, (q + 1) % num_qubits, angles=pairs) for q in range(num_qubits)]
    ops += [op("RX", qubit, angles=single) for qubit in range(num_qubits)]
    return begin, Circuit(num_qubits, tuple(ops), num_rounds)


def _string(num_qubits: int, letter: str, *qubits: int) -> str:
    return "".join(letter if qubit in qubits else "I" for qubit in range(num_qubits))
