"""Chains and trees of tensors: circuits against a NumPy statevector, and closed forms."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.config import UserError
from rtdlm.modules.quantum.circuit import Angle, Circuit, op
from rtdlm.modules.quantum.mps import MPS, mps_to_statevector
from rtdlm.modules.quantum.mps_circuit import run_mps
from rtdlm.modules.quantum.mps_measure import mps_energy, mps_expectations, mps_sample
from rtdlm.modules.quantum.pauli import PauliSum
from rtdlm.modules.quantum.ttn import TTN, ttn_to_statevector
from rtdlm.modules.quantum.ttn_circuit import run_ttn
from rtdlm.modules.quantum.ttn_measure import ttn_energy, ttn_expectations, ttn_sample


class Network(NamedTuple):
    """The functions of one form of tensor network."""

    run: Callable[..., Any]
    statevector: Callable[..., jax.Array]
    expectations: Callable[..., jax.Array]
    energy: Callable[..., jax.Array]
    sample: Callable[..., jax.Array]
    basis: Callable[..., Any]


NETWORKS = {
    "mps": Network(
        run_mps, mps_to_statevector, mps_expectations, mps_energy, mps_sample, MPS.basis
    ),
    "ttn": Network(
        run_ttn, ttn_to_statevector, ttn_expectations, ttn_energy, ttn_sample, TTN.basis
    ),
}
QUBITS, EXACT = 6, 8
"""Bonds of 2^3 are exact on six qubits, also on the tree of eight leaves."""
PAULIS = {
    "I": np.eye(2),
    "X": np.array([[0, 1], [1, 0]]),
    "Y": np.array([[0, -1j], [1j, 0]]),
    "Z": np.diag([1, -1]),
}
FLOAT64 = np.zeros(0, np.float64)
"""Parameters of a circuit without any, which say that it is complex128."""


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> Network:
    return NETWORKS[request.param]


def haar(rng: np.random.Generator, size: int) -> np.ndarray:
    q, r = np.linalg.qr(rng.normal(size=(size, size)) + 1j * rng.normal(size=(size, size)))
    return q * (np.diag(r) / np.abs(np.diag(r)))


def random_gates(num_gates: int, *, seed: int = 0) -> list[tuple[np.ndarray, tuple[int, ...]]]:
    """Random unitaries on one qubit, or two in any order."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(num_gates):
        size = int(rng.integers(1, 3))
        qubits = tuple(rng.choice(QUBITS, size, replace=False).tolist())
        found.append((haar(rng, 2**size), qubits))
    return found


def simulate(gates: Sequence[tuple[np.ndarray, tuple[int, ...]]], num_qubits: int) -> np.ndarray:
    """Amplitudes, qubit 0 the most significant."""
    state = np.zeros((2,) * num_qubits, complex)
    state[(0,) * num_qubits] = 1
    for matrix, qubits in gates:
        size = len(qubits)
        tensor = matrix.reshape((2,) * (2 * size))
        state = np.tensordot(tensor, state, (range(size, 2 * size), qubits))
        state = np.moveaxis(state, range(size), qubits)
    return state.ravel()


def circuit(gates: Sequence[tuple[np.ndarray, tuple[int, ...]]]) -> Circuit:
    return Circuit(QUBITS, tuple(op(matrix, *qubits) for matrix, qubits in gates))


def amplitudes(network: Network, state: Any) -> np.ndarray:
    """Of QUBITS qubits; those that a tree adds are at |0>."""
    found = np.asarray(network.statevector(state)).reshape(2**QUBITS, -1)
    assert not found[:, 1:].any()
    return found[:, 0]


GATES = random_gates(24)
WANTED = simulate(GATES, QUBITS)


@jax.enable_x64(True)
def test_with_room_a_circuit_is_exact(network: Network) -> None:
    """Any pair in any order; nothing is discarded."""
    evolved = network.run(circuit(GATES), jnp.asarray(FLOAT64), max_bond=EXACT)
    np.testing.assert_allclose(amplitudes(network, evolved.state), WANTED, atol=1e-13)
    assert 0 <= 1 - evolved.fidelity_bound < 1e-13


def test_single_precision(network: Network) -> None:
    evolved = network.run(circuit(GATES), max_bond=EXACT)
    found = amplitudes(network, evolved.state).astype(np.complex128)
    np.testing.assert_allclose(found, WANTED, atol=2e-6)
    assert abs(np.vdot(WANTED, found)) ** 2 >= 1 - 1e-6


@jax.enable_x64(True)
@pytest.mark.parametrize(("max_bond", "threshold"), [(3, 0.0), (5, 0.0), (EXACT, 0.15)])
def test_what_was_discarded_bounds_the_fidelity(
    network: Network, max_bond: int, threshold: float
) -> None:
    evolved = network.run(
        circuit(GATES), jnp.asarray(FLOAT64), max_bond=max_bond, threshold=threshold
    )
    found = amplitudes(network, evolved.state)
    fidelity = abs(np.vdot(WANTED, found)) ** 2
    np.testing.assert_allclose(np.linalg.norm(found), 1)
    assert evolved.fidelity_bound <= fidelity < 0.999
    assert evolved.fidelity_bound < evolved.fidelity_estimate < 1


def test_circuits_follow_one_another(network: Network) -> None:
    """From any basis state, and round after round with parameters of their own."""
    turn = (op("RY", 0, angles=[Angle(param=0)]), op("CRX", 3, 1, angles=[Angle(param=1)]))
    angles = jnp.asarray([[0.3, 1.1], [2.0, 0.7]])
    start = network.basis([1, 0, 1, 1], max_bond=4)
    both = network.run(Circuit(4, turn, 2), angles, max_bond=4, state=start).state
    for row in angles:
        start = network.run(Circuit(4, turn), row, max_bond=4, state=start).state
    found, wanted = network.statevector(both), network.statevector(start)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert abs(wanted[0b1011]) ** 2 < 0.9


@jax.enable_x64(True)
def test_the_finer_format_is_kept(network: Network) -> None:
    """Of the state's and the circuit's; gates without angles are as fine as the state."""
    fine, coarse = (
        network.basis([0] * 4, max_bond=4, dtype=x) for x in ("complex128", "complex64")
    )
    turn = Circuit(4, (op("H", 0), op("CRX", 3, 1, angles=[Angle(param=0)])))
    for state, dtype, wanted in (
        (fine, jnp.float32, "complex128"),
        (coarse, jnp.float64, "complex128"),
        (coarse, jnp.float32, "complex64"),
    ):
        found = network.run(turn, jnp.ones(1, dtype), max_bond=4, state=state).state[0]
        assert found.dtype == wanted
    for number, half in ((0, 0.0), (1, 0.5)):
        fixed = Circuit(4, (op("H", 0),) * number)
        found = network.statevector(network.run(fixed, max_bond=4, state=fine).state)
        np.testing.assert_allclose(abs(found[8]) ** 2, half, rtol=1e-15)


@jax.enable_x64(True)
@pytest.mark.parametrize(("name", "num_qubits"), [("mps", 256), ("ttn", 200)])
def test_hundreds_of_qubits_in_a_ghz_state(name: str, num_qubits: int) -> None:
    """(|0...0> + |1...1>) / sqrt(2) with bonds of 2: <Z_i> = 0, <Z_i Z_j> = <X...X> = 1.

    The tree has 56 leaves more than there are qubits.
    """
    network = NETWORKS[name]
    ops = (op("H", 0), *(op("CNOT", i, i + 1) for i in range(num_qubits - 1)))
    evolved = network.run(Circuit(num_qubits, ops), jnp.asarray(FLOAT64), max_bond=2)
    singles = ["I" * i + "Z" for i in (0, num_qubits // 2, num_qubits - 1)]
    pairs = ["ZZ", "Z".ljust(num_qubits - 1, "I") + "Z", "I" * 40 + "ZIIZ"]
    found = network.expectations(evolved.state, [*singles, *pairs, "X" * num_qubits])
    np.testing.assert_allclose(found, [0] * 3 + [1] * 4, atol=1e-13)
    bits = np.asarray(network.sample(evolved.state, jax.random.key(0), num_samples=8))
    bits = bits[:, :num_qubits]
    assert (bits == bits[:, :1]).all() and 0 < bits[:, 0].sum() < 8


def test_the_fourier_transform_of_a_basis_state(network: Network) -> None:
    """e^(2 pi i x y / 2^n) / sqrt(2^n), a product state: 15 gates on any pair, 3 swaps."""
    number, ops = 37, []
    for i in range(QUBITS):
        ops.append(op("H", i))
        for j in range(i + 1, QUBITS):
            phase = np.exp(2j * np.pi / 2 ** (j - i + 1))
            ops.append(op(np.diag([1, 1, 1, phase]), j, i))
    ops += [op("SWAP", i, QUBITS - 1 - i) for i in range(QUBITS // 2)]
    bits = [number >> i & 1 for i in reversed(range(QUBITS))]
    start = network.basis(bits, max_bond=EXACT)
    evolved = network.run(Circuit(QUBITS, tuple(ops)), max_bond=EXACT, state=start)
    phases = 2j * np.pi * number * np.arange(2**QUBITS) / 2**QUBITS
    wanted = np.exp(phases) / 2 ** (QUBITS / 2)
    np.testing.assert_allclose(amplitudes(network, evolved.state), wanted, atol=1e-6)


def test_expectations_and_energies(network: Network) -> None:
    strings = ["ZIIIII", "XYZIYX", "IIYYII", "IIIIIX"]
    state = network.run(circuit(GATES), max_bond=EXACT).state
    wanted = []
    for string in strings:
        matrix = np.eye(1)
        for letter in string:
            matrix = np.kron(matrix, PAULIS[letter])
        wanted.append(np.vdot(WANTED, matrix @ WANTED).real)
    np.testing.assert_allclose(network.expectations(state, strings), wanted, atol=2e-6)
    weights = (0.5, -2.0, 1.0, 3.0)
    energy = network.energy(state, PauliSum(weights, tuple(strings)))
    np.testing.assert_allclose(energy, np.dot(weights, wanted), atol=5e-6)
    # Tensors of any norm stand for the same state.
    scaled = jax.tree.map(lambda x: 30 * x, state)
    np.testing.assert_allclose(network.expectations(scaled, strings), wanted, atol=2e-6)


def test_samples_have_the_probabilities_of_the_state(network: Network) -> None:
    state = network.run(circuit(GATES), max_bond=EXACT).state
    bits = np.asarray(network.sample(state, jax.random.key(1), num_samples=2000))
    assert not bits[:, QUBITS:].any()
    numbers = bits[:, :QUBITS] @ 2 ** np.arange(QUBITS)[::-1]
    expected = 2000 * np.abs(WANTED) ** 2
    chi_square = ((np.bincount(numbers, minlength=2**QUBITS) - expected) ** 2 / expected).sum()
    # One in a thousand of right samplers is above; of 63 degrees of freedom.
    assert chi_square < 103.4


def parametrised() -> Circuit:
    gates = iter(random_gates(60, seed=3))
    ops = []
    for number in range(6):
        matrix, qubits = next(gate for gate in gates if len(gate[1]) == 2)
        name = ("RY", "RX")[number % 2]
        ops += [op(name, qubits[0], angles=[Angle(param=number)]), op(matrix, *qubits)]
    ops += [op("RXX", 0, 4, angles=[Angle(param=6)]), op("RZZ", 5, 1, angles=[Angle(param=7)])]
    return Circuit(QUBITS, tuple(ops))


@jax.enable_x64(True)
@pytest.mark.parametrize("max_bond", [3, EXACT])
def test_gradients_of_angles(network: Network, max_bond: int) -> None:
    """With room, by the parameter-shift rule; truncated, by differences, which cut likewise."""

    @jax.jit
    def value(angles: jax.Array) -> jax.Array:
        state = network.run(parametrised(), angles, max_bond=max_bond).state
        return jnp.sum(network.expectations(state, ["XYIIZ", "ZZZZZZ", "IIIXX"]))

    angles = jnp.asarray(np.random.default_rng(0).normal(size=8))
    step, scale = (np.pi / 2, 2.0) if max_bond == EXACT else (1e-5, 2e-5)
    moved = [(angles + step * unit, angles - step * unit) for unit in jnp.eye(8)]
    wanted = [(value(up) - value(down)) / scale for up, down in moved]
    np.testing.assert_allclose(jax.jit(jax.grad(value))(angles), wanted, atol=1e-8)
    assert np.abs(wanted).min() > 1e-3


@jax.enable_x64(True)
def test_an_angle_that_begins_to_entangle(network: Network) -> None:
    """<XIY> = -sin(angle): exact however small the angle, but 0 at 0, as is documented."""
    turn = Circuit(3, (op("RXX", 0, 2, angles=[Angle(param=0)]),))

    @jax.jit
    def value(angle: jax.Array) -> jax.Array:
        state = network.run(turn, angle[None], max_bond=4).state
        return network.expectations(state, ["XIY"])[0]

    slope = jax.jit(jax.grad(value))
    found = [slope(jnp.asarray(angle)) for angle in (0.5, 1e-9, 0.0)]
    np.testing.assert_allclose(found, [-np.cos(0.5), -1, 0], atol=1e-12)


@jax.enable_x64(True)
def test_gradients_of_tensors(network: Network) -> None:
    """Tensors may be parameters: no cut is between them and an expectation."""
    state = network.basis([0] * 4, max_bond=2, dtype=jnp.complex128)
    rng = np.random.default_rng(0)
    tensors, change = (
        jnp.asarray(rng.normal(size=state[0].shape) + 1j * rng.normal(size=state[0].shape))
        for _ in range(2)
    )

    @jax.jit
    def value(amount: float) -> jax.Array:
        return network.expectations(type(state)(tensors + amount * change), ["ZXIY"])[0]

    wanted = (value(1e-5) - value(-1e-5)) / 2e-5
    np.testing.assert_allclose(jax.grad(value)(0.0), wanted, rtol=1e-7)


def test_mistakes_are_told(network: Network) -> None:
    toffoli = Circuit(3, (op("TOFFOLI", 0, 1, 2),))
    with pytest.raises(UserError, match=r"on the 3 qubits \(0, 1, 2\).*one or two"):
        network.run(toffoli, max_bond=4)
    small = network.basis([0, 0], max_bond=2)
    for wrong in (partial(network.run, Circuit(5, ())), partial(network.run, Circuit(2, ()))):
        with pytest.raises(UserError, match="bonds of 2 is given to a circuit of"):
            wrong(max_bond=4, state=small)
    with pytest.raises(UserError, match="'ZA' is no product of Pauli matrices on 2 qubits"):
        network.expectations(small, ["ZA"])
    with pytest.raises(UserError, match="'ZZZ' is no product"):
        network.expectations(small, ["ZZZ"])
    with pytest.raises(UserError, match="expected at least 2 qubits"):
        network.basis([0], max_bond=4)
