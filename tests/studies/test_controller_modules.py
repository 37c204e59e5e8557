"""The mixture by hand, its modules' costs against the compiler's, and the study at a tiny size."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.child import Times
from rtdlm.evaluation.results import read_results
from studies import controller_modules as study
from studies import mixture_choice as way
from studies import mixture_tasks as tasks
from studies.__main__ import main
from studies.mixture_modules import CONTRACTS
from studies.mixture_tasks import CODE, TASKS, TOKENS, Mixture, draw

ROWS = 12
MANY = 2000


def drawn(seed: int, **how: Any) -> Mixture:
    return draw(jax.random.key(seed), **how)


def of_task(name: str) -> tuple[np.ndarray, np.ndarray, Mixture]:
    """Tokens and answers of many rows of one task alone."""
    mixture = drawn(0, batch=MANY, tasks=(TASKS.index(name),))
    return np.asarray(mixture.rows.token_BTF), np.asarray(mixture.answer_B), mixture


def test_what_memory_is_asked_for_stands_in_the_store_and_in_no_token() -> None:
    token, answer, mixture = of_task("memory")
    for b in range(ROWS):
        asked, rest = token[b, TOKENS, :CODE], token[b, TOKENS, CODE:]
        assert not rest.any()
        like = np.asarray(mixture.rows.key_BMC)[b] @ asked
        assert like.max() == pytest.approx(1.0, abs=1e-4)
        assert np.asarray(mixture.rows.class_BMY)[b, like.argmax(), answer[b]] == 1
        codes = token[b, :TOKENS].reshape(-1, CODE)
        assert (codes @ asked).max() < 0.95


def test_edges_lead_to_the_answer_in_as_many_hops_as_are_asked_for() -> None:
    token, answer, _ = of_task("graph")
    hops_seen = set()
    for b in range(ROWS):
        source, target = token[b, :TOKENS, :CODE], token[b, :TOKENS, CODE:]
        place = int((source @ token[b, TOKENS, :CODE]).argmax())
        hops = 1 + int(token[b, TOKENS, CODE:].argmax())
        hops_seen.add(hops)
        seen = [place]
        for _ in range(hops):
            place = int((source @ target[place]).argmax())
            seen.append(place)
        assert place == answer[b]
        assert len(set(seen)) == len(seen)
    assert hops_seen == {1, 2, 3, 4}


def test_the_circuit_that_teaches_is_products_of_matrices() -> None:
    token, answer, _ = of_task("quantum")
    qubits, size = tasks.QUBITS, 2**tasks.QUBITS
    count = 2 * qubits
    rng = np.random.default_rng(tasks.TEACHER)
    given = rng.uniform(0, 2 * np.pi, (tasks.ROUNDS, count))

    def on(matrix: np.ndarray, qubit: int) -> np.ndarray:
        left, right = np.eye(2**qubit), np.eye(2 ** (qubits - qubit - 1))
        return np.kron(np.kron(left, matrix), right)

    def ry(angle: float) -> np.ndarray:
        c, s = np.cos(angle / 2), np.sin(angle / 2)
        return np.array([[c, -s], [s, c]])

    def rz(angle: float) -> np.ndarray:
        return np.diag(np.exp(np.array([-0.5j, 0.5j]) * angle))

    def cnot(control: int, target: int) -> np.ndarray:
        flipped = [n ^ (1 << (qubits - 1 - target)) for n in range(size)]
        rows = [flipped[n] if n >> (qubits - 1 - control) & 1 else n for n in range(size)]
        return np.eye(size)[rows]

    for b in range(ROWS):
        state = np.zeros(size, complex)
        state[0] = 1
        for qubit in range(qubits):
            state = on(ry(token[b, qubit, 0]), qubit) @ state
        for angles in given:
            for qubit in range(qubits):
                state = on(ry(angles[2 * qubit]), qubit) @ state
                state = on(rz(angles[2 * qubit + 1]), qubit) @ state
            for qubit in range(qubits):
                state = cnot(qubit, (qubit + 1) % qubits) @ state
        z = np.diag([1.0, -1.0])
        signs = [np.vdot(state, on(z, qubit) @ state).real > 0 for qubit in range(3)]
        assert answer[b] == 4 * signs[0] + 2 * signs[1] + signs[2]
        assert not token[b, :, 1:].any() and not token[b, qubits:].any()


def parities(token: np.ndarray) -> tuple[int, int]:
    """The class by hand, and how many tokens hold bits."""
    bits = [one[1:4] > 0 for one in token if one.any()]
    assert all(set(np.abs(one[1:4])) == {1.0} for one in token if one.any())
    odd = [sum(int(bit[z]) for bit in bits) % 2 for z in range(3)]
    return 4 * odd[0] + 2 * odd[1] + odd[2], len(bits)


def test_the_answer_of_depth_is_three_parities() -> None:
    token, answer, _ = of_task("depth")
    found = [parities(token[b]) for b in range(ROWS)]
    assert [answer[b] for b in range(ROWS)] == [one for one, _ in found]
    assert len({length for _, length in found}) >= 4
    assert not token[:, :, 0].any() and not token[:, :, 4:].any()


@pytest.mark.parametrize("name", TASKS)
def test_no_class_of_a_task_is_common(name: str) -> None:
    """What one class alone is right for says what guessing is worth."""
    _, answer, _ = of_task(name)
    shares = np.bincount(answer, minlength=tasks.CLASSES) / MANY
    assert shares.max() < 0.25 and shares.min() > 0.03, shares


def test_the_mixture_has_all_tasks_and_each_row_its_own_answer() -> None:
    mixture = drawn(3, batch=400)
    assert np.bincount(np.asarray(mixture.task_B), minlength=4).min() > 60
    token, answer = np.asarray(mixture.rows.token_BTF), np.asarray(mixture.answer_B)
    for b in np.flatnonzero(np.asarray(mixture.task_B) == TASKS.index("depth")):
        assert answer[b] == parities(token[b])[0]


@pytest.fixture(scope="module")
def mixture() -> Mixture:
    return drawn(1, batch=32)


@pytest.fixture(scope="module")
def params(mixture: Mixture) -> Any:
    return jax.jit(way.init)(jax.random.key(2), mixture)


@pytest.mark.parametrize("name", TASKS)
def test_costs_are_those_that_the_compiler_counts(name: str, params: Any) -> None:
    counts = {}
    for batch in (64, 128):
        rows = jax.eval_shape(partial(draw, batch=batch), jax.random.key(1)).rows
        program = jax.jit(way.NETS[name].apply).lower(params[name], rows)
        counts[batch] = program.cost_analysis()["flops"]
    counted = (counts[128] - counts[64]) / 64
    told = CONTRACTS[name].cost()
    assert 0.8 < told / counted < 1.25, (told, counted)


def test_a_chosen_module_says_what_it_says_among_all(mixture: Mixture, params: Any) -> None:
    @jax.jit  # as one, since both run all modules
    def run_all(params: Any, rows: Any, weight_BM: jax.Array) -> tuple[jax.Array, jax.Array]:
        return way.every(params, rows), way.run_mixed(params, rows, weight_BM)

    every, mixed = run_all(params, mixture.rows, jax.nn.one_hot(mixture.task_B, 4))
    run_chosen = jax.jit(way.run_chosen)
    for choice in (mixture.task_B, jax.jit(way.dealt)(mixture), jnp.zeros(32, jnp.int32)):
        found = run_chosen(params, mixture.rows, choice)
        expected = jnp.take_along_axis(every, choice[None, :, None], axis=0)[0]
        np.testing.assert_allclose(found, expected, atol=1e-5)
    needed = run_chosen(params, mixture.rows, mixture.task_B)
    np.testing.assert_allclose(mixed, needed, atol=1e-5)


def moved(slopes: Any) -> set[str]:
    return {name for name, own in slopes.items() if any(map(np.any, jax.tree.leaves(own)))}


def test_losses_move_what_they_are_meant_for(mixture: Mixture, params: Any) -> None:
    def of(learn: Any) -> set[str]:
        return moved(jax.jit(jax.grad(lambda p: learn(None, p, mixture)))(params))

    every = set(TASKS)
    assert of(way.learn_controlled) == {*every, "policy"}
    found = study.kinds()
    assert of(found["all, by row"].learn) == {*every, "policy"}
    assert of(found["all, alike"].learn) == {*every, "alike"}
    assert of(found["graph alone"].learn) == {"graph"}


def test_the_policy_learns_towards_the_module_that_loses_least(params: Any) -> None:
    """Modules are held; that of memory reads its store before any training."""
    at = way.TASKS.index("memory")
    only = jax.tree.map(lambda x: x[:256], drawn(5, batch=MANY, tasks=(at,)))

    @jax.jit
    def chosen(params: Any) -> jax.Array:
        price = jnp.full(256, way.PRICE)
        return jax.nn.softmax(way.decide(params, only.rows, price))[:, at].mean()

    before = chosen(params)
    slope = jax.jit(
        jax.grad(lambda own: way.learn_controlled(None, params | {"policy": own}, only))
    )
    own = params["policy"]
    for _ in range(20):
        own = jax.tree.map(lambda w, s: w - 0.1 * s, own, slope(own))
    assert chosen(params | {"policy": own}) > before + 0.05


def ran(right: float, picked: float, operations: float) -> study.Ran:
    times, every = Times(0.001, 0.001), Times(0.003, 0.002)
    shares = dict.fromkeys(TASKS, right), dict.fromkeys(TASKS, picked)
    return study.Ran(*shares, operations, times, every, 1.0)


def test_bars_by_hand() -> None:
    sides = {
        "controller": [ran(0.95, 0.99, 100.0), ran(0.97, 0.85, 100.0)],
        "random": [ran(0.3, 0.25, 120.0), ran(0.3, 0.25, 120.0)],
        "all, alike": [ran(0.99, 0.0, 400.0), ran(0.99, 0.0, 400.0)],
    }
    found = {result.name: result for result in study.results(sides)}
    picked = found["controller, the needed module chosen/right, graph"]
    assert picked.value == pytest.approx(92.0) and picked.holds
    assert found["without the controller: random/right, less"].value == pytest.approx(66.0)
    assert found["without the controller: random/right, less"].holds
    assert found["without the controller: all, alike/operations, more"].value == 4.0
    assert found["without the controller: all, alike/right, less"].value == pytest.approx(-3.0)
    assert found["controller beside all modules/sooner, wall"].value == pytest.approx(3.0)
    assert found["controller beside all modules/sooner, CPU"].holds


def test_it_runs(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    assert main(["controller_modules", "--smoke", "--out", str(out)]) == 0
    names = {result.name for result in read_results(out).results}
    assert "controller, the needed module chosen/right" in names
    assert "without the controller: random/right, less" in names
