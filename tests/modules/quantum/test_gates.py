"""Gates against the exponentials and the tables that define them."""

import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.modules.quantum.gates import GATES, PAULIS

ANGLES = np.array([-2.5, 0.0, 0.3, np.pi], np.float32)
BASIS = np.eye(8, dtype=np.complex128)


def exponential(generator):
    """exp(-i generator), by its eigenvectors."""
    values, vectors = np.linalg.eigh(generator)
    return vectors @ np.diag(np.exp(-1j * values)) @ vectors.conj().T


def found(name, *angles):
    return np.asarray(GATES[name].matrix(*(jnp.asarray(angle) for angle in angles)))


@pytest.mark.parametrize("name", ["RX", "RY", "RZ", "RXX", "RYY", "RZZ"])
def test_rotations_are_exponentials(name):
    pauli = PAULIS[name[1]]
    pauli = np.kron(pauli, pauli) if len(name) == 3 else pauli
    for angle, matrix in zip(ANGLES, found(name, ANGLES), strict=True):
        np.testing.assert_allclose(matrix, exponential(angle / 2 * pauli), atol=1e-6)


@pytest.mark.parametrize("name", ["RX", "RY", "RZ"])
def test_a_controlled_rotation_turns_the_second_qubit_if_the_first_is_1(name):
    matrices = found(f"C{name}", ANGLES)
    np.testing.assert_array_equal(matrices[:, :2], np.broadcast_to(BASIS[:2, :4], (4, 2, 4)))
    np.testing.assert_array_equal(matrices[:, 2:, :2], 0)
    np.testing.assert_array_equal(matrices[:, 2:, 2:], found(name, ANGLES))


def test_u3_and_phase_are_those_of_openqasm():
    a, b, c = ANGLES[[0, 2, 3]]
    cos, sin = np.cos(a / 2), np.sin(a / 2)
    u3 = [[cos, -np.exp(1j * c) * sin], [np.exp(1j * b) * sin, np.exp(1j * (b + c)) * cos]]
    np.testing.assert_allclose(found("U3", a, b, c), u3, atol=1e-6)
    np.testing.assert_allclose(found("PHASE", a), np.diag([1, np.exp(1j * a)]), atol=1e-6)
    np.testing.assert_allclose(found("PHASE", np.float32(np.pi / 2)), found("S"), atol=1e-6)
    np.testing.assert_allclose(found("T") @ found("T"), found("S"), atol=1e-15)


@pytest.mark.parametrize(
    ("name", "table"),
    [("CNOT", [0, 1, 3, 2]), ("SWAP", [0, 2, 1, 3]), ("TOFFOLI", [0, 1, 2, 3, 4, 5, 7, 6])],
)
def test_permutations_are_those_of_their_tables(name, table):
    """The first qubit is the most significant bit."""
    size = len(table)
    np.testing.assert_array_equal(found(name), BASIS[:size, :size][table])


def test_fixed_gates_on_one_qubit_and_cz():
    np.testing.assert_allclose(found("H"), np.array([[1, 1], [1, -1]]) / np.sqrt(2))
    np.testing.assert_array_equal(found("CZ"), np.diag([1, 1, 1, -1]))
    for name, matrix in (
        ("X", [[0, 1], [1, 0]]),
        ("Y", [[0, -1j], [1j, 0]]),
        ("Z", [[1, 0], [0, -1]]),
    ):
        np.testing.assert_array_equal(found(name), matrix)


def test_every_gate_is_unitary_and_as_large_as_it_says():
    for gate in GATES.values():
        matrix = np.asarray(gate.matrix(*[jnp.float32(0.7)] * gate.num_angles))
        assert matrix.shape == (2**gate.num_qubits,) * 2
        np.testing.assert_allclose(matrix @ matrix.conj().T, np.eye(len(matrix)), atol=1e-6)
