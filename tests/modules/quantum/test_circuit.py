"""Descriptions of circuits: angles against their formula, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.config import UserError
from rtdlm.modules.quantum.circuit import Angle, Circuit, matrices, op
from rtdlm.modules.quantum.gates import GATES


def rotation_x(angle):
    cos, sin = np.cos(angle / 2), np.sin(angle / 2)
    return np.array([[cos, -1j * sin], [-1j * sin, cos]])


def test_an_angle_is_what_its_formula_says():
    angle = Angle(0.5, param=1, scale=-2.0, feature=0, weight=2)
    circuit = Circuit(2, (op("RZ", 1, angles=[angle]), op("H", 0), op("RX", 0, angles=[0.25])), 2)
    assert (circuit.num_params, circuit.num_features) == (3, 1)
    params = np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]], np.float32)
    features = jnp.asarray([0.7], jnp.float32)
    rz, h, rx = jax.jit(lambda p, f: matrices(circuit, p, f))(params, features)
    half = (0.5 - 2 * params[:, 1] + 0.7 * params[:, 2]) / 2
    for turn in range(2):
        expected = np.diag(np.exp([-1j * half[turn], 1j * half[turn]]))
        np.testing.assert_allclose(rz[turn], expected, atol=1e-6)
        np.testing.assert_allclose(h[turn], GATES["H"].matrix(), atol=1e-6)
        np.testing.assert_allclose(rx[turn], rotation_x(0.25), atol=1e-6)


def test_a_feature_without_a_weight_is_itself_and_a_row_of_params_is_a_round():
    circuit = Circuit(
        1, (op("RX", 0, angles=[Angle(feature=1)]), op("RX", 0, angles=[Angle(param=0)]))
    )
    params, features = jnp.asarray([0.3]), jnp.asarray([9.0, 0.4])
    of_data, of_param = jax.jit(lambda p, f: matrices(circuit, p, f))(params, features)
    np.testing.assert_allclose(of_data[0], rotation_x(0.4), atol=1e-6)
    np.testing.assert_allclose(of_param[0], rotation_x(0.3), atol=1e-6)


def test_circuits_are_hashable_and_equal_by_what_they_say():
    made = [Circuit(2, (op(np.eye(4), 1, 0), op("RX", 0, angles=[0.1]))) for _ in range(2)]
    assert len({*made}) == 1
    assert made[0] != Circuit(2, made[0].ops, 2)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_precision_is_that_of_the_params(dtype):
    circuit = Circuit(1, (op("RY", 0, angles=[Angle(param=0)]), op("H", 0)))
    with jax.enable_x64(True):
        found = matrices(circuit, jnp.asarray([0.1], dtype))
    assert {str(matrix.dtype) for matrix in found} == {
        {"float32": "complex64"}.get(dtype, "complex128")
    }


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: op("CNOTT", 0, 1), "no gate 'CNOTT': did you mean CNOT"),
        (lambda: op("Q!", 0), "no gate 'Q!': there are X, Y"),
        (lambda: op("CNOT", 0), "CNOT is given 1 qubits: expected 2"),
        (lambda: op("RX", 0), "RX is given 0 angles: expected 1"),
        (lambda: op("H", 0, angles=[0.1]), "H is given 1 angles: expected 0"),
        (lambda: op("CZ", 1, 1), r"CZ acts on \(1, 1\): name different"),
        (lambda: op(np.eye(3), 0), r"shape \(3, 3\): expected \[2\^q, 2\^q\]"),
        (lambda: op([[1, 1], [0, 1]], 0), "not unitary: U U.* is 1 off"),
        (lambda: op([[np.nan, 0], [0, 1]], 0), "not unitary"),
        (lambda: Circuit(2, (op("H", 2),)), r"H acts on qubits \(2,\) of a circuit of 2"),
        (lambda: Circuit(0, ()), "num_qubits is 0"),
        (lambda: Circuit(1, (), 0), "num_rounds is 0"),
        (
            lambda: matrices(
                Circuit(1, (op("RX", 0, angles=[Angle(param=1)]),)), jnp.zeros((2, 2))
            ),
            r"params have shape \(2, 2\): this circuit takes \(1, 2\)",
        ),
        (
            lambda: matrices(Circuit(1, (op("RX", 0, angles=[Angle(feature=0)]),))),
            r"features have shape \(0,\): this circuit takes \(1,\)",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
