"""The study of Ising chains: its closed form against a whole matrix, and a tiny run."""

from argparse import Namespace

import numpy as np
import pytest

from studies.quantum_ising import SMOKE, measure, open_chain_energy


@pytest.mark.parametrize("num_qubits", [2, 5])
def test_the_closed_form_is_the_lowest_eigenvalue(num_qubits: int) -> None:
    z = np.diag([1.0, -1.0])
    x = np.array([[0.0, 1.0], [1.0, 0.0]])

    def product(**at: np.ndarray) -> np.ndarray:
        found = np.eye(1)
        for qubit in range(num_qubits):
            found = np.kron(found, at.get(f"q{qubit}", np.eye(2)))
        return found

    whole = -sum(product(**{f"q{i}": x}) for i in range(num_qubits))
    whole -= sum(product(**{f"q{i}": z, f"q{i + 1}": z}) for i in range(num_qubits - 1))
    np.testing.assert_allclose(open_chain_energy(num_qubits), np.linalg.eigvalsh(whole)[0])


def test_the_study_finds_the_ground_state() -> None:
    *_, results = measure(Namespace(smoke=True, seeds=None))
    found = {result.name: result for result in results}
    assert found["ring, 4 qubits, variational/relative error"].holds
    small, large = (
        found[f"open chain, {SMOKE.num_qubits} qubits, bonds of {bond}/relative error"]
        for bond in SMOKE.max_bonds
    )
    assert small.bar is None and 1e-9 < small.value < 1e-2
    assert large.holds and large.value < 1e-12
