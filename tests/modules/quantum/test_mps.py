"""Chains alone: their canonical form, conversions, neighbours' expectations, and walks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.config import UserError
from rtdlm.modules.quantum.circuit import Circuit, op
from rtdlm.modules.quantum.mps import (
    MPS,
    mps_amplitude,
    mps_canonical,
    mps_from_statevector,
    mps_to_statevector,
)
from rtdlm.modules.quantum.mps_circuit import run_mps
from rtdlm.modules.quantum.mps_measure import mps_expectations, mps_neighbours
from rtdlm.modules.quantum.mps_plan import GATE, LOCAL, MOVE, SWAP, plan

QUBITS, EXACT = 5, 4


def draw(*shape: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


def random_state(*, seed: int = 0) -> np.ndarray:
    found = draw(2**QUBITS, seed=seed)
    return found / np.linalg.norm(found)


def unitary(size: int, *, seed: int) -> np.ndarray:
    return np.linalg.qr(draw(size, size, seed=seed).astype(np.complex128))[0]


def assert_canonical(state: MPS) -> None:
    """Every tensor but the first is an isometry from what its left bond uses."""
    first, *others = np.asarray(state.tensors_NLPR)
    np.testing.assert_allclose(np.linalg.norm(first), 1, rtol=1e-5)
    used = np.abs(first).sum((0, 1)) > 1e-6
    for tensor in others:
        rows = tensor.reshape(len(tensor), -1)[used]
        np.testing.assert_allclose(rows @ rows.conj().T, np.eye(used.sum()), atol=1e-5)
        used = np.abs(tensor[used]).sum((0, 1)) > 1e-6


@pytest.mark.parametrize("max_bond", [EXACT, 3])
def test_a_statevector_becomes_a_chain(max_bond: int) -> None:
    wanted = random_state()
    state, lost = mps_from_statevector(jnp.asarray(wanted), max_bond=max_bond)
    assert_canonical(state)
    found = np.asarray(mps_to_statevector(state))
    if max_bond == EXACT:
        np.testing.assert_allclose(found, wanted, atol=1e-6)
        bits = jnp.asarray([1, 0, 1, 1, 0])
        np.testing.assert_allclose(mps_amplitude(state, bits), wanted[0b10110], atol=1e-6)
    else:
        # Only the two bonds in the middle lose anything.
        assert (np.asarray(lost) > 1e-3).tolist() == [False, True, True, False]
        # Cuts from one end on only ever take away, so that here the product is no estimate.
        np.testing.assert_allclose(abs(np.vdot(wanted, found)) ** 2, np.prod(1 - lost), rtol=1e-5)


def test_any_tensors_are_made_canonical() -> None:
    tensors = draw(QUBITS, EXACT, 2, EXACT, seed=1)
    wanted = np.asarray(mps_to_statevector(MPS(jnp.asarray(tensors))))
    state = mps_canonical(MPS(jnp.asarray(tensors)))
    assert_canonical(state)
    found = np.asarray(mps_to_statevector(state))
    np.testing.assert_allclose(abs(np.vdot(wanted, found)), np.linalg.norm(wanted), rtol=1e-5)


def test_a_circuit_leaves_a_canonical_chain() -> None:
    """Also when it cuts, and walks qubits past each other."""
    pairs = [(0, 4), (3, 1), (2, 0), (4, 1), (1, 2)]
    ops = tuple(op(unitary(4, seed=i), *pair) for i, pair in enumerate(pairs))
    for max_bond in (EXACT, 3):
        evolved = run_mps(Circuit(QUBITS, ops), max_bond=max_bond)
        assert_canonical(evolved.state)
        assert (evolved.fidelity_bound > 0.999) == (max_bond == EXACT)


def test_roundings_of_hundreds_of_cuts_do_not_add_up() -> None:
    """In complex64 <Z> of a GHZ state is 9e-5 if columns keep the lengths that LAPACK gives."""
    ops = (op("H", 0), *(op("CNOT", i, i + 1) for i in range(255)))
    evolved = run_mps(Circuit(256, ops), max_bond=2)
    found = mps_expectations(evolved.state, ["Z", "I" * 128 + "Z", "I" * 255 + "Z"])
    np.testing.assert_allclose(found, 0, atol=1e-5)


def test_one_cut_loses_what_the_singular_values_say() -> None:
    """Two bonds of 2 meet in the last gate, which needs 4: the middle of an exact state."""
    pairs = [(0, 1), (3, 4), (1, 2), (2, 3)]
    ops = tuple(op(unitary(4, seed=i), *pair) for i, pair in enumerate(pairs))
    exact = np.asarray(mps_to_statevector(run_mps(Circuit(QUBITS, ops), max_bond=EXACT).state))
    evolved = run_mps(Circuit(QUBITS, ops), max_bond=2)
    tail = np.linalg.svd(exact.reshape(8, 4))[1][2:] ** 2
    assert tail.sum() > 1e-3
    found = np.asarray(mps_to_statevector(evolved.state))
    np.testing.assert_allclose(evolved.discarded_T.sum(), tail.sum(), rtol=1e-5)
    np.testing.assert_allclose(abs(np.vdot(exact, found)) ** 2, 1 - tail.sum(), rtol=1e-5)
    np.testing.assert_allclose(evolved.fidelity_bound, 1 - tail.sum(), rtol=1e-5)


def test_expectations_of_neighbours() -> None:
    terms = draw(QUBITS - 1, 4, 4, seed=2)
    terms = terms + terms.conj().swapaxes(1, 2)
    state = random_state()
    wanted = []
    for i, term in enumerate(terms):
        whole = np.kron(np.kron(np.eye(2**i), term), np.eye(2 ** (QUBITS - 2 - i)))
        wanted.append(np.vdot(state, whole @ state).real)
    chain = mps_from_statevector(jnp.asarray(state), max_bond=EXACT)[0]
    for scale in (1, 30):
        found = mps_neighbours(MPS(scale * chain.tensors_NLPR), jnp.asarray(terms))
        np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=1e-5)


def test_a_walk_by_this_table() -> None:
    """A gate on 2 and 0 of three qubits: 0 walks past 1, and back; then one on 1 alone."""
    steps = plan([(2, 0), (1,)], 3)
    found = list(zip(*(x.tolist() for x in steps), strict=True))
    assert found == [
        (0, GATE, SWAP, False),  # 1 0 2, the centre at 1
        (1, GATE, 0, True),
        (0, LOCAL + 1, 1, False),  # 1 is at the left end
        (1, MOVE + 1, SWAP, False),
        (0, GATE + 1, SWAP, False),
    ]


def test_gates_in_a_row_need_few_swaps() -> None:
    """A qubit that meets all others in turn walks once along the chain, and once back."""
    steps = plan([(0, other) for other in range(1, 10)], 10)
    assert (steps.gate == SWAP)[steps.kind < MOVE].sum() == 2 * 8


@pytest.mark.parametrize("shape", [(6,), (2,), (2, 2)])
def test_a_statevector_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"expected \[2\^n\]"):
        mps_from_statevector(jnp.ones(shape, jnp.complex64), max_bond=2)


def test_the_same_program_serves_all_depths() -> None:
    """What is compiled for a circuit does not grow with it, but for its table of gates."""

    def size(depth: int) -> int:
        ops = tuple(op("CZ", i, i + 1) for i in range(QUBITS - 1)) * depth
        circuit = Circuit(QUBITS, ops)
        jaxpr = jax.make_jaxpr(lambda: run_mps(circuit, max_bond=2))()
        return str(jaxpr).count("svd")

    assert size(1) == size(20) > 0
