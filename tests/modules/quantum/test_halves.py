"""The first rounds in halves: the same state, of as many rounds as pay, whatever crosses."""

from functools import partial
from itertools import count
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.modules.quantum import halves_plan
from rtdlm.modules.quantum.ansatz import brick_wall, hardware_efficient, strongly_entangling
from rtdlm.modules.quantum.circuit import Angle, Circuit, matrices, op
from rtdlm.modules.quantum.gates import GATES
from rtdlm.modules.quantum.halves import run_halves
from rtdlm.modules.quantum.halves_plan import kept, operations, plan, rounds_in_halves
from rtdlm.modules.quantum.pauli import expectations
from rtdlm.modules.quantum.statevector import run, zero_state
from tests.modules.quantum.circuits import act, random_params

KEEPING = [
    name
    for name, gate in GATES.items()
    if gate.num_qubits > 1 and (name in ("TOFFOLI", "RZZ") or name.startswith("C"))
]

SEEDS = range(4)


def crossing(seed: int, num_qubits: int, num_ops: int, *, num_rounds: int) -> Circuit:
    """Gates that keep a qubit, on any qubits in any order, and any gates on one."""
    rng, first = np.random.default_rng(seed), 2 * seed
    singles = [name for name, gate in GATES.items() if gate.num_qubits == 1]
    params, ops = count(), []
    for turn in range(num_ops):
        name = (
            KEEPING[(turn // 4 + first) % len(KEEPING)]
            if turn % 4 == 0
            else singles[turn % len(singles)]
        )
        gate = GATES[name]
        qubits = rng.choice(num_qubits, gate.num_qubits, replace=False).tolist()
        angles = [Angle(param=next(params)) for _ in range(gate.num_angles)]
        ops.append(op(name, *qubits, angles=angles))
    return Circuit(num_qubits, tuple(ops), num_rounds)


def by_gates(circuit: Circuit, params: Any, rounds: int, *, array: Any = np.asarray) -> Any:
    state = array(zero_state(circuit.num_qubits))
    made = [array(matrix) for matrix in jax.jit(lambda params: matrices(circuit, params))(params)]
    for turn in range(rounds):
        for each, matrix in zip(circuit.ops, made, strict=True):
            state = act(matrix[turn], state, each.qubits)
    return state


@partial(jax.jit, static_argnums=(0, 2))
def in_halves(circuit: Circuit, params: Any, rounds: int) -> Any:
    planes = run_halves(circuit, matrices(circuit, params), rounds)
    return jax.lax.complex(planes[0], planes[1])


def test_every_gate_that_keeps_a_qubit_is_tried() -> None:
    tried = {each.gate for seed in SEEDS for each in crossing(seed, 8, 14, num_rounds=2).ops}
    assert tried >= {*KEEPING}


@pytest.mark.parametrize("num_qubits", [5, 8])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_state_is_that_of_the_gates(num_qubits: int, seed: int) -> None:
    circuit = crossing(seed, num_qubits, 14, num_rounds=2)
    steps = plan(circuit, 2)
    if steps is None:  # a TOFFOLI whose target lies beside one of its controls
        circuit = Circuit(num_qubits, tuple(o for o in circuit.ops if o.gate != "TOFFOLI"), 2)
    params = random_params(np.random.default_rng(seed), circuit)
    found = in_halves(circuit, params, 2)
    np.testing.assert_allclose(found, by_gates(circuit, params, 2), atol=2e-6)


@pytest.mark.parametrize(
    "circuit",
    [
        hardware_efficient(8, num_rounds=3),
        hardware_efficient(7, num_rounds=3),
        brick_wall(6, num_rounds=3),
        strongly_entangling(7, num_rounds=2, reaches=(1, 3)),
    ],
    ids=["ring", "ring of 7", "bricks", "reaches"],
)
def test_every_ansatz_can_be_run_in_halves(circuit: Circuit) -> None:
    params = random_params(np.random.default_rng(1), circuit)
    for rounds in (1, circuit.num_rounds):
        found = in_halves(circuit, params, rounds)
        np.testing.assert_allclose(found, by_gates(circuit, params, rounds), atol=2e-6)


def test_the_rounds_that_are_left_go_on_from_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through `run`, and its gradient by the rounds before and behind."""
    monkeypatch.setattr(halves_plan, "FEWEST", 6)
    circuit = hardware_efficient(8, num_rounds=4)
    assert 0 < rounds_in_halves(circuit) < 4
    params = random_params(np.random.default_rng(2), circuit)
    string = "ZXIYIIZI"

    def value(params: Any) -> Any:
        return expectations(run(circuit, params), [string])[0]

    def plain(params: Any) -> Any:
        state = by_gates(circuit, params, 4, array=jnp.asarray)
        return expectations(state, [string])[0]

    found = jax.jit(lambda params: run(circuit, params))(params)
    np.testing.assert_allclose(found, by_gates(circuit, params, 4), atol=2e-6)
    expected, found = (jax.jit(jax.grad(f))(params) for f in (plain, value))
    assert np.abs(expected).min(1).max() > 1e-3
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_of_a_batch_every_row_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(halves_plan, "FEWEST", 6)
    circuit = hardware_efficient(6, num_rounds=2)
    assert rounds_in_halves(circuit)
    params = jnp.stack([random_params(np.random.default_rng(i), circuit) for i in range(3)])
    found = jax.jit(jax.vmap(lambda params: run(circuit, params)))(params)
    for one, own in zip(found, params, strict=True):
        np.testing.assert_allclose(one, by_gates(circuit, own, 2), atol=2e-6)


@pytest.mark.parametrize("qubits", [(0, 3, 4), (3, 1, 5), (4, 5, 1), (2, 0, 4)])
def test_a_gate_on_three_qubits_crosses_where_one_that_it_keeps_is_alone(
    qubits: tuple[int, int, int],
) -> None:
    turns = [op("RY", qubit, angles=[0.3 + 0.2 * qubit]) for qubit in range(6)]
    circuit = Circuit(6, (*turns, op("TOFFOLI", *qubits)), 2)
    alone = int(sum(qubit // 3 for qubit in qubits) == 1)
    if qubits[2] // 3 == alone:
        assert plan(circuit, 2) is None, "its target is alone"
        return
    found = in_halves(circuit, None, 2)
    np.testing.assert_allclose(found, by_gates(circuit, None, 2), atol=2e-6)


def test_double_precision_is_kept() -> None:
    circuit = hardware_efficient(6, num_rounds=3)
    with jax.enable_x64(True):
        params = np.random.default_rng(3).uniform(-3, 3, (3, circuit.num_params))
        found = in_halves(circuit, jnp.asarray(params), 3)
        assert found.dtype == np.complex128
        np.testing.assert_allclose(found, by_gates(circuit, jnp.asarray(params), 3), atol=1e-14)


def test_what_a_gate_keeps() -> None:
    assert kept("CNOT") == (True, False)
    assert kept("CRX") == (True, False)
    assert kept("TOFFOLI") == (True, True, False)
    assert kept("CZ") == kept("RZZ") == kept("CRZ") == (True, True)
    assert kept("SWAP") == kept("RXX") == (False, False)
    assert kept("RY") == (False,)
    assert kept("U3") == (False,)
    assert kept("PHASE") == (True,)
    flipped = np.eye(4)[[0, 3, 2, 1]]
    assert kept(op(flipped, 0, 1).gate) == (False, True), "a CNOT by the second qubit"


@pytest.mark.parametrize("gate", ["SWAP", "RXX"])
def test_a_gate_that_keeps_no_qubit_does_not_cross(gate: str) -> None:
    angles = [0.3] * GATES[gate].num_angles
    across = Circuit(6, (op("H", 0), op(gate, 2, 3, angles=angles)), 2)
    beside = Circuit(6, (op("H", 0), op(gate, 1, 2, angles=angles)), 2)
    assert plan(across, 1) is None
    assert plan(beside, 1) is not None


def test_gates_of_long_reach_cross_too_often() -> None:
    near = strongly_entangling(20, num_rounds=2, reaches=(3,))
    far = strongly_entangling(20, num_rounds=2, reaches=(4,))
    assert plan(near, 1) is not None
    assert plan(far, 1) is None
    assert rounds_in_halves(far) == 0


def test_terms_double_with_every_crossing_that_is_closed() -> None:
    """Of a ring two gates cross; what the last round leaves open adds no term."""
    circuit = hardware_efficient(20, num_rounds=4)
    for rounds in range(1, 5):
        steps = plan(circuit, rounds)
        assert steps is not None
        join = steps[-1]
        assert isinstance(join, halves_plan.Join)
        assert join.terms == 2 * (rounds - 1)
        assert join.controls == ((9,), (9,))


def test_as_many_rounds_as_pay() -> None:
    deep, bricks = hardware_efficient(20, num_rounds=30), brick_wall(20, num_rounds=30)
    assert 2 <= rounds_in_halves(deep) <= 4
    assert rounds_in_halves(bricks) > rounds_in_halves(deep), "one gate crosses, not two"
    assert rounds_in_halves(hardware_efficient(halves_plan.FEWEST - 1, num_rounds=4)) == 0
    turns = Circuit(20, tuple(op("H", qubit) for qubit in range(20)), 100)
    assert rounds_in_halves(turns) == halves_plan.MOST_ROUNDS
    swapped = Circuit(20, (*hardware_efficient(20, num_rounds=1).ops, op("SWAP", 9, 10)), 4)
    assert rounds_in_halves(swapped) == 0


def test_operations_are_those_of_the_products() -> None:
    circuit = hardware_efficient(16, num_rounds=3)
    steps = plan(circuit, 3)
    assert steps is not None
    params = jax.ShapeDtypeStruct((3, circuit.num_params), jnp.float32)
    counted = in_halves.lower(circuit, params, 3).compile().cost_analysis()["flops"]
    assert abs(operations(circuit, steps) / counted - 1) < 0.1, counted
