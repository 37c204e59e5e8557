"""Trajectories against a density matrix, and channels against what they are to do."""

import jax
import numpy as np
import pytest

from rtdlm.config import UserError
from rtdlm.modules.quantum.circuit import Angle, Circuit, op
from rtdlm.modules.quantum.measure import probabilities
from rtdlm.modules.quantum.noise import (
    amplitude_damping,
    depolarising,
    disturb,
    phase_damping,
    run_noisy,
)
from rtdlm.modules.quantum.pauli import expectations
from rtdlm.modules.quantum.statevector import run
from tests.modules.quantum.circuits import act, random_params, random_state, unitary

CHANNELS = {
    "depolarising": depolarising(0.1),
    "amplitude_damping": amplitude_damping(0.2),
    "phase_damping": phase_damping(0.3),
}
TRAJECTORIES = 4000
ANY = unitary(np.random.default_rng(0), 2)
CIRCUIT = Circuit(
    3,
    (
        op("RY", 0, angles=[Angle(param=0)]),
        op("RX", 2, angles=[Angle(param=1)]),
        op("CNOT", 2, 0),
        op("H", 1),
        op("CZ", 1, 2),
        op(ANY, 2, 1),
    ),
    2,
)
PARAMS = random_params(np.random.default_rng(0), CIRCUIT)


def both_sides(matrix, density, qubits):
    """K r K^+."""
    once = act(matrix, density, qubits)
    return act(matrix, once.conj().T, qubits).conj().T


def noisy_density(kraus):
    """The same circuit, its gates written out once more, on a density matrix."""
    density = np.zeros((8, 8), np.complex128)
    density[0, 0] = 1
    for ry, rx in np.float64(PARAMS):
        cos, sin = np.cos([ry / 2, rx / 2]), np.sin([ry / 2, rx / 2])
        gates = [
            (np.array([[cos[0], -sin[0]], [sin[0], cos[0]]]), (0,)),
            (np.array([[cos[1], -1j * sin[1]], [-1j * sin[1], cos[1]]]), (2,)),
            (np.eye(4)[[0, 1, 3, 2]], (2, 0)),
            (np.array([[1, 1], [1, -1]]) / np.sqrt(2), (1,)),
            (np.diag([1, 1, 1, -1]), (1, 2)),
            (ANY, (2, 1)),
        ]
        for matrix, qubits in gates:
            density = both_sides(matrix, density, qubits)
            for qubit in qubits:
                density = sum(both_sides(k, density, (qubit,)) for k in kraus)
    return density


@pytest.mark.parametrize("name", CHANNELS)
def test_trajectories_have_the_mean_of_the_density_matrix(name):
    """Within 5 standard errors, which are small."""
    kraus, strings = CHANNELS[name], ["ZII", "IIY", "YXI", "ZZZ"]

    def one(key):
        state = run_noisy(CIRCUIT, key, kraus, PARAMS)
        return expectations(state, strings), probabilities(state)

    keys = jax.random.split(jax.random.key(0), TRAJECTORIES)
    values, shares = (np.float64(x) for x in jax.jit(jax.vmap(one))(keys))
    np.testing.assert_allclose(shares.sum(1), 1, atol=1e-5)
    density = noisy_density(kraus)
    assert np.trace(density @ density).real < 0.9
    paulis = {
        "I": np.eye(2),
        "X": [[0, 1], [1, 0]],
        "Y": [[0, -1j], [1j, 0]],
        "Z": np.diag([1, -1]),
    }
    for i, string in enumerate(strings):
        whole = np.kron(np.kron(*(paulis[c] for c in string[:2])), paulis[string[2]])
        error = values[:, i].std() / np.sqrt(TRAJECTORIES)
        assert 1e-3 < error < 0.02
        assert abs(values[:, i].mean() - np.trace(whole @ density).real) <= 5 * error
    errors = shares.std(0) / np.sqrt(TRAJECTORIES)
    assert (abs(shares.mean(0) - np.diag(density).real) < 5 * errors + 1e-6).all()


@pytest.mark.parametrize("name", CHANNELS)
def test_channels_keep_the_trace_and_do_what_they_are_named_for(name):
    kraus = CHANNELS[name]
    total = sum(k.conj().T @ k for k in kraus)
    np.testing.assert_allclose(total, np.eye(2), atol=1e-12)
    density = np.array([[0.3, 0.1 - 0.2j], [0.1 + 0.2j, 0.7]])
    after = {
        "depolarising": 0.9 * density + 0.1 * np.eye(2) / 2,
        "amplitude_damping": [
            [0.3 + 0.2 * 0.7, density[0, 1] * 0.8**0.5],
            [density[1, 0] * 0.8**0.5, 0.8 * 0.7],
        ],
        "phase_damping": density * [[1, 0.7**0.5], [0.7**0.5, 1]],
    }
    np.testing.assert_allclose(
        sum(k @ density @ k.conj().T for k in kraus), after[name], atol=1e-12
    )


def test_no_noise_is_none():
    found = jax.jit(lambda key: run_noisy(CIRCUIT, key, depolarising(0.0), PARAMS))(
        jax.random.key(0)
    )
    np.testing.assert_allclose(found, jax.jit(lambda: run(CIRCUIT, PARAMS))(), atol=1e-6)


def test_full_damping_leaves_0():
    state = random_state(np.random.default_rng(0), 3)
    for number in range(4):
        left = disturb(state, jax.random.key(number), amplitude_damping(1.0), qubit=1)
        np.testing.assert_allclose(probabilities(left, [1]), [1, 0], atol=1e-6)


@pytest.mark.parametrize("channel", [depolarising, amplitude_damping, phase_damping])
def test_what_is_no_probability_is_refused(channel):
    with pytest.raises(UserError, match=f"{channel.__name__} of 1.5: expected a probability"):
        channel(1.5)
