"""The tasks of mixed difficulty by hand, what is told of them, and the study at a tiny size."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.evaluation.results import read_results
from studies import controller_addition, controller_hops, controller_results
from studies.__main__ import main
from studies.controlled import Task, all_exits, at_depth, deployed, exits_at, net_of
from studies.controller_addition import ADDITION_TASK
from studies.controller_costs import Costs, at_one_depth, counted
from studies.controller_hops import HOPS_TASK, NODES, QUESTIONS
from studies.controller_judge import Ran
from studies.controller_table import Judged, rank_correlation

TASKS = pytest.mark.parametrize("task", [HOPS_TASK, ADDITION_TASK], ids=["hops", "addition"])


def test_pointers_lead_where_the_answer_says() -> None:
    examples = controller_hops.draw(jax.random.key(0), 3 * QUESTIONS)
    source, target = np.asarray(examples.source_GMC), np.asarray(examples.target_GMC)
    for row in range(3 * QUESTIONS):
        graph = row // QUESTIONS
        leads = [int(np.argmax(source[graph] @ code)) for code in target[graph]]
        place = int(np.argmax(source[graph] @ np.asarray(examples.asked_NC[row])))
        seen = [place]
        for _ in range(int(examples.hops_N[row])):
            place = leads[place]
            seen.append(place)
        assert place == int(examples.answer[row])
        assert len(set(seen)) == len(seen), "no other number of hops ends there"
    starts = np.asarray(examples.asked_NC)
    assert len(np.unique(starts.round(4), axis=0)) > NODES, "questions differ"


def test_few_questions_are_hard() -> None:
    hops = np.asarray(controller_hops.draw(jax.random.key(1), 1024 * QUESTIONS).hops_N)
    share = np.bincount(hops, minlength=9)[1:] / hops.size
    wanted = 0.7 ** np.arange(1, 9)
    np.testing.assert_allclose(share, wanted / wanted.sum(), atol=0.015)


def test_digits_are_those_of_the_sum() -> None:
    examples = controller_addition.draw(jax.random.key(2), 64)

    def number(digits: np.ndarray) -> int:
        return int("".join(str(digit) for digit in digits[::-1]))

    totals = set()
    for first, second, answer in zip(*map(np.asarray, examples), strict=True):
        totals.add(number(first) + number(second))
        assert number(first) + number(second) == number(answer)
    assert len(totals) == 64


def test_a_sum_needs_as_many_steps_as_digits_have_to_look_back() -> None:
    examples = controller_addition.draw(jax.random.key(3), 256)
    found = np.asarray(controller_addition.steps_needed(examples))
    for row, (first, second, _) in enumerate(zip(*map(np.asarray, examples), strict=True)):
        looks = []
        for place in range(1, len(first)):
            back = 1
            while place - back >= 0 and first[place - back] + second[place - back] == 9:
                back += 1
            looks.append(back)
        assert found[row] == max(looks)
    assert set(range(1, 9)) <= set(found.tolist())


def test_few_sums_need_many_steps() -> None:
    needed = controller_addition.steps_needed(controller_addition.draw(jax.random.key(3), 4096))
    share = np.bincount(np.asarray(needed)) / 4096
    assert share[:4].sum() > 0.5
    assert 0.02 < share[7:].sum() < 0.15


@TASKS
def test_a_deployed_run_answers_as_a_full_one(task: Task) -> None:
    net, examples = net_of(task), task.draw(jax.random.key(4), 64)
    params = jax.jit(net.init)(jax.random.key(7), examples)
    # As it begins, the controller goes by the number of the step.
    params["controller"]["steps"] *= 0.0
    params["controller/decide"]["w"] *= 30.0
    price = jnp.float32(0.5)
    full = jax.jit(partial(all_exits, task, net))(params, examples)
    exit_N, _ = jax.jit(partial(exits_at, task, net))(params, full.summary_SNF, price=price)
    found = jax.jit(partial(deployed, task, net))(params, examples, price=price)
    assert len(set(exit_N.tolist())) > 2
    np.testing.assert_array_equal(found.exit_N, exit_N)
    np.testing.assert_allclose(found.scores, full.scores[exit_N, jnp.arange(64)], atol=1e-4)


@TASKS
def test_a_depth_is_an_exit(task: Task) -> None:
    net, examples = net_of(task), task.draw(jax.random.key(6), 32)
    params = jax.jit(net.init)(jax.random.key(7), examples)
    full = jax.jit(partial(all_exits, task, net))(params, examples)
    found = jax.jit(partial(at_depth, task, net, depth=3))(params, examples)
    np.testing.assert_allclose(found, full.scores[2], atol=1e-5)


def test_a_carry_moves_one_place_a_step() -> None:
    """No exit knows of a digit that is farther to the right than it has steps."""
    net, examples = net_of(ADDITION_TASK), ADDITION_TASK.draw(jax.random.key(8), 32)
    params = jax.jit(net.init)(jax.random.key(9), examples)
    other = examples._replace(first_NW=(examples.first_NW.at[:, 0].add(1)) % 10)
    run = jax.jit(partial(all_exits, ADDITION_TASK, net))
    before, after = (run(params, e).scores for e in (examples, other))
    changed_SW = np.asarray(jnp.any(before != after, axis=(1, -1)))
    reached_SW = np.arange(17)[None] <= 1 + np.arange(10)[:, None]
    np.testing.assert_array_equal(changed_SW & ~reached_SW, False)
    assert changed_SW[:3][reached_SW[:3]].all()


def test_costs_add_up() -> None:
    costs = Costs(begin=10.0, step=20.0, gate=2.0, read=10.0, num_steps=4)
    assert costs.thorough == 100.0
    np.testing.assert_allclose(costs.in_steps(), [1.1, 2.2, 3.3, 4.3])
    np.testing.assert_allclose(costs.stopping([0, 3]), [0.42, 1.06])
    assert costs.depth_at(0.5) == pytest.approx(1.5)
    assert (costs.depth_at(0.1), costs.depth_at(2.0)) == (1.0, 4.0)
    assert at_one_depth([0.2, 0.6, 0.8], 1.5) == pytest.approx(0.4)
    assert at_one_depth([0.2, 0.6, 0.8], 3.0) == pytest.approx(0.8)


def test_operations_are_those_of_the_products() -> None:
    """A place of an addition multiplies 64 by 64 and 64 by 32 numbers."""
    net = net_of(ADDITION_TASK)
    params = jax.eval_shape(net.init, jax.random.key(0), ADDITION_TASK.draw(jax.random.key(0), 4))
    costs = counted(ADDITION_TASK, net, params)
    products = 2 * 17 * (64 * 64 + 64 * 32)
    assert products <= costs.step < 1.15 * products
    assert 0 < costs.gate < 0.2 * costs.step


def test_ranks_are_correlated() -> None:
    assert rank_correlation(np.array([1, 2, 3]), np.array([4, 9, 10])) == pytest.approx(1)
    assert rank_correlation(np.array([1, 2, 3]), np.array([3, 2, 1])) == pytest.approx(-1)
    assert rank_correlation(np.array([1, 1, 1]), np.array([3, 2, 1])) == 0.0


def judged(right: float, **changes: float) -> Judged:
    plain = Judged(right, 0.39, True, 0.5, 0.4, 0.9, 0.03, 0.01)
    return plain._replace(**changes)


def ran(loose: Judged, **budgets: Judged) -> Ran:
    binding = controller_results.BINDING
    given = {int(name.removeprefix("at")): one for name, one in budgets.items()}
    return Ran(
        0.99, loose, {binding: judged(0.8), 100: judged(0.99, binding=False)} | given,
        0.6, 1.0, 0.0, 2.0, Costs(1.0, 2.0, 0.1, 1.0, 8), 9.0, 7,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("bar", "changes", "holds"),
    [
        ("rank correlation of exit and difficulty", {"rank": 0.71}, True),
        ("rank correlation of exit and difficulty", {"rank": 0.69}, False),
        ("loose: lost to all steps", {"right": 0.981}, True),
        ("loose: lost to all steps", {"right": 0.979}, False),
        ("loose: cost", {"cost": 0.46}, False),
        ("error of calibrated confidence", {"calibrated": 0.051}, False),
        ("loose: worst seed above the best of random exits", {"random": 0.986}, False),
        ("loose: worst seed above the best of random exits", {"random": 0.984}, True),
    ],
)
def test_loose_prices_have_bars(bar: str, changes: dict[str, float], holds: bool) -> None:
    loose = judged(0.985)._replace(**changes)
    found = {
        r.name: r for r in controller_results.results("hops", [ran(loose), ran(judged(0.985))])
    }
    assert found[f"bars/hops/{bar}"].holds is holds


def test_budgets_have_bars() -> None:
    def verdict(bar: str, **budgets: Judged) -> bool | None:
        found = controller_results.results("hops", [ran(judged(0.985), **budgets)])
        return next(r.holds for r in found if r.name == f"bars/hops/{bar}")

    assert verdict("most that a larger budget loses")
    assert verdict("most that a larger budget loses", at50=judged(0.9), at70=judged(0.88))
    assert not verdict("most that a larger budget loses", at50=judged(0.9), at70=judged(0.86))
    assert verdict("largest cost over its budget", at50=judged(0.9, cost=0.505))
    assert verdict("smallest cost over a binding budget", at50=judged(0.9, cost=0.45))
    assert not verdict("largest cost over its budget", at50=judged(0.9, cost=0.52))
    assert not verdict("smallest cost over a binding budget", at50=judged(0.9, cost=0.43))
    assert verdict("binding: above one depth for all")
    assert verdict("binding: above nets trained for that depth")


def test_the_study_runs(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    assert main(["controller", "--smoke", "--out", str(out)]) == 0
    names = {result.name for result in read_results(out).results}
    assert "bars/addition/rank correlation of exit and difficulty" in names
    assert not (tmp_path / "found.partial").exists()
