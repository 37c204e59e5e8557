"""The studies of memory: their arithmetic by hand, and each from end to end at a tiny size."""

from argparse import Namespace
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.text import CharacterText
from rtdlm.evaluation.results import read_results
from studies import (
    memory_carried,
    memory_forms,
    memory_passkey,
    memory_recall,
    memory_rule,
    memory_side,
    memory_text,
    memory_turns,
)
from studies.__main__ import main
from studies.memory_side import Run, Stage
from studies.memory_turns import Teacher, Visit, examples, summed
from tests.training.runs import flat

STUDIED = [
    "memory_recall", "memory_rule", "memory_passkey", "memory_text", "memory_heads",
    "memory_carried", "memory_turns",
]  # fmt: skip
TINY = memory_recall.SMOKE.base


class Sized(NamedTuple):
    """Of a run, what a table of results asks for."""

    parameters: int


SIZED = Sized(7)


def named(results: Any) -> dict[str, Any]:
    return {result.name: result for result in results}


def test_recall_has_to_be_there_with_memory_and_must_not_without() -> None:
    size = memory_recall.WHOLE
    right = {3: 0.96, 16: 0.96, 128: 0.72}
    ran = {name: [memory_recall.Ran(right, 0.9, 1.0)] for name in memory_recall.TIERS}
    found = named(memory_recall.results(size, ran, dict.fromkeys(ran, SIZED)))

    def holds(name: str, segments: int) -> bool | None:
        verdict: bool | None = found[f"{name}/right, {segments} segments"].holds
        return verdict

    assert [holds("gated delta", n) for n in size.segments] == [True, True, True]
    assert [holds(memory_recall.EPISODIC, n) for n in size.segments] == [False] * 3
    assert [holds("none", n) for n in size.segments] == [False] * 3
    assert [holds(memory_recall.SHORT, n) for n in size.segments] == [None] * 3
    assert [holds("STM", n) for n in size.segments] == [None, False, False]
    ran["none"] = [memory_recall.Ran(dict.fromkeys(right, 0.05), 0.0, 1.0)]
    ran["gated delta"] = [memory_recall.Ran({3: 0.96, 16: 0.94, 128: 0.69}, 0.9, 1.0)]
    found = named(memory_recall.results(size, ran, dict.fromkeys(ran, SIZED)))
    assert [holds("none", n) for n in size.segments] == [True] * 3
    assert [holds("gated delta", n) for n in size.segments] == [True, False, False]
    assert found["guessing/right"].value == pytest.approx(100 / 48)
    assert size.segments == (3, 16, 128)


def test_a_rule_is_known_from_mtm_alone_and_not_without_it() -> None:
    size = memory_rule.WHOLE
    everything = {n: 0.97 for n in (*size.later, *size.session_segments)}
    names = (*memory_rule.TIERS, *memory_rule.SESSIONS)
    ran = {name: [memory_rule.Ran(everything, 1.0)] for name in names}
    found = named(memory_rule.results(size, ran, dict.fromkeys(names, SIZED)))
    assert found["MTM alone/right, two sessions of 2 segments"].holds
    assert found["MTM/right, 64 segments later"].holds
    control = "control, MTM cleared too/right, two sessions of 2 segments"
    assert found[control].holds is False
    assert found["none/right, 2 segments later"].holds is False
    # Two layers, each with a window of one segment, reach two segments back.
    assert found["STM/right, 2 segments later"].holds is None
    assert found["STM/right, 15 segments later"].holds is False


def test_what_is_cleared_for_the_test_of_mtm_is_all_else() -> None:
    assert memory_rule.SESSIONS["MTM alone"] == memory_rule.CLEARED == ("stm", "ltm")
    assert "mtm" in memory_rule.SESSIONS["control, MTM cleared too"]
    assert memory_rule.two_sessions(memory_rule.WHOLE).sessions == 2


def test_text_has_to_be_below_every_seed_without_memory() -> None:
    def of(*losses: float) -> list[memory_text.Ran]:
        return [memory_text.Ran(loss, loss - 0.1, 1.0) for loss in losses]

    for losses, gap in (((1.3, 1.39), 0.01), ((1.3, 1.45), -0.05)):
        ran = {"none": of(1.5, 1.4), "STM": of(1.45), "all": of(*losses)}
        found = named(memory_text.results(ran, dict.fromkeys(ran, SIZED), judged=("all",)))
        below = found["all/below every seed without memory"]
        assert below.value == pytest.approx(gap)
        assert below.holds == (gap > 0)
        assert found["STM/below every seed without memory"].holds is None
        assert "none/below every seed without memory" not in found
        pair = found["all/below none with the same seed"]
        assert pair.spread == pytest.approx(sorted((1.5 - losses[0], 1.4 - losses[1])))
        least = found["all/below none with the same seed, least"]
        assert least.value == pytest.approx(1.4 - losses[1])
        assert least.holds == (losses[1] < 1.4)


def test_sides_begin_with_the_same_weights() -> None:
    """Two layers in one loop beside two loops, of which one has memory, and narrower ones."""
    text = memory_text.Text(np.zeros(999, np.int32), 20, segment=8)
    base = memory_text.SMOKE.base
    plain = memory_side.with_memory(base)
    tree = memory_side.with_memory({**base, "d_ff": 5}, {"every": 2, "stm_window": 8})
    none, side, alone = Run(plain, text), Run(tree, text, plain=plain), Run(tree, text)
    first, own, other = (flat(run.first(3)) for run in (none, side, alone))
    for path, leaf in other.items():
        place = int("layers_1" in path)
        same = first.get(path.replace("layers_1", "layers"))
        if same is None:
            assert "memory" in path
            np.testing.assert_array_equal(own[path], leaf)
        elif "layers" in path:
            both = tuple(map(slice, leaf.shape[1:]))
            np.testing.assert_array_equal(own[path][0], same[place][both])
        else:
            np.testing.assert_array_equal(own[path], same)
    assert any(not np.array_equal(own[path], leaf) for path, leaf in other.items())
    assert flat(Run(plain, text, plain=plain).first(3)).keys() == first.keys()


def test_lanes_go_on_where_the_step_before_ended() -> None:
    text = memory_text.Text(np.arange(1000, dtype=np.int32), 1000, segment=8)
    steps = list(memory_carried.in_order(text, rows=3, segments=2, steps=5, seed=1))
    lanes = np.concatenate([drawn.ids_BT for drawn in steps], axis=1)
    starts = lanes[:, 0]
    np.testing.assert_array_equal(lanes, starts[:, None] + np.arange(5 * 16))
    np.testing.assert_array_equal(steps[-1].labels_BT, steps[-1].ids_BT + 1)
    assert np.diff(starts).tolist() == [333, 333] and 0 < starts[0] < 333 - 80
    [again, *_] = memory_carried.in_order(text, rows=3, segments=2, steps=5, seed=2)
    assert again.ids_BT[0, 0] != starts[0]


def test_what_is_carried_is_compared_with_the_same_that_is_not() -> None:
    def of(*losses: float) -> list[memory_carried.Ran]:
        return [memory_carried.Ran(loss, loss + 0.1, 1.0) for loss in losses]

    short, on, *_ = memory_carried.SIDES
    ran = {short: of(1.5, 1.4), on: of(1.4, 1.45)}
    found = named(memory_carried.results(ran, SIZED))
    assert found[f"{on}/below the same not carried"].spread == pytest.approx([-0.05, 0.1])
    least = found[f"{on}/below the same not carried, least"]
    assert least.value == pytest.approx(-0.05) and least.holds is False


def test_a_step_that_is_given_a_memory_learns_from_it() -> None:
    """The first step of both is the same; the second has other losses, and so other weights."""
    text = memory_text.Text(np.random.default_rng(0).integers(20, size=999, dtype=np.int32), 20, 8)
    tree = memory_side.with_memory(memory_text.SMOKE.base, memory_text.WINDOW)
    run = Run(tree, text)
    found = [
        memory_carried.trained(run, text, memory_carried.Side(1, carried=on), Stage(2, 2, steps), 0)
        for steps in (1, 2)
        for on in (False, True)
    ]
    one, other, third, fourth = (flat(trained.params) for trained in found)
    for path, leaf in one.items():
        np.testing.assert_array_equal(leaf, other[path])
    assert any(not np.array_equal(leaf, fourth[path]) for path, leaf in third.items())


SIZE = memory_turns.SMOKE  # 3 cues, 2 questions a lesson, 2 rows
SHARES = {0: 1.0, 1: 0.5, 2: 0.25}


def visit(cue: int, *right: float, after: dict[int, float]) -> Visit:
    return Visit(cue, right, after)


def test_examples_are_counted_up_to_the_step_that_shows_them_known() -> None:
    for right, steps in (((0.95, 1.0), 1), ((0.1, 0.9, 0.2), 2), ((0.1, 0.89, 0.2), 3)):
        assert examples(visit(0, *right, after={}), SIZE) == steps * 2 * 2


def test_what_is_forgotten_is_what_a_task_lost_between_visits() -> None:
    visits = [
        visit(0, 0.1, 0.95, 1.0, after={0: 1.0}),
        visit(1, 0.1, 0.5, 0.95, after={0: 0.5, 1: 1.0}),
        visit(2, 0.1, 0.2, 0.3, after={0: 0.25, 1: 0.5, 2: 0.75}),
        visit(0, 0.2, 0.95, 1.0, after={0: 1.0, 1: 0.5, 2: 0.5}),
        visit(1, 0.4, 0.95, 1.0, after={0: 0.5, 1: 1.0, 2: 0.5}),
        visit(2, 0.3, 0.95, 1.0, after={0: 0.5, 1: 0.5, 2: 1.0}),
    ]
    ran = summed(SIZE, visits)
    assert ran.first == 4 * (2 + 3 + 3) / 3
    assert ran.again == 4 * 2
    assert ran.learned == pytest.approx((1.0 + 1.0 + 0.75 + 1.0 + 1.0 + 1.0) / 6)
    assert ran.forgetting == pytest.approx((0.8 + 0.6 + 0.45) / 3)
    earlier = [0.5, 0.25, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]
    assert ran.earlier == pytest.approx(np.mean(earlier))


def test_turns_are_compared_seed_by_seed() -> None:
    def of(again: float, forgetting: float) -> memory_turns.Ran:
        return memory_turns.Ran(100.0, again, 0.9, forgetting, 0.5)

    worse = of(200, 0.0)
    ran = {
        "none": [{1.0: of(100, 0.5), 0.1: worse}, {1.0: of(60, 0.6), 0.1: worse}],
        "MTM": [{1.0: worse, 0.1: of(50, 0.1)}, {1.0: worse, 0.1: of(20, 0.4)}],
    }
    found = named(memory_turns.results(ran, parameters=dict.fromkeys(ran, 7)))
    assert (found["none/best rate"].value, found["MTM/best rate"].value) == (1.0, 0.1)
    title = "MTM beside none, each at its best rate"
    fewer = found[f"{title}/examples fewer"]
    assert (fewer.value, fewer.spread, fewer.holds) == (2.5, (2.0, 3.0), True)
    less = found[f"{title}/forgotten less than in every seed"]
    assert less.value == pytest.approx(10.0)
    assert less.holds
    assert not any(memory_turns.CONTROL in name for name in found)
    found = named(
        memory_turns.results(
            {**ran, memory_turns.CONTROL: ran["MTM"][:1]},
            parameters={name: 7 for name in (*ran, memory_turns.CONTROL)},
        )
    )
    title = f"MTM beside {memory_turns.CONTROL}, each at its best rate"
    assert f"{title}/examples fewer" not in found, "one seed beside two"
    found = named(
        memory_turns.results(
            {**ran, memory_turns.CONTROL: ran["MTM"]},
            parameters={name: 7 for name in (*ran, memory_turns.CONTROL)},
        )
    )
    assert found[f"{title}/examples fewer"].holds is False


class Counter:
    """A model whose memory counts calls, and whose share of right answers is that count."""

    config = memory_side.fitted(TINY, SIZE.task, segments=1)

    def empty_memory(self, batch: int) -> Any:
        return jnp.zeros(batch)

    def scores(
        self, params: Any, ids_BT: Any, labels_BT: Any, *, memory: Any = None, terms: Any = None
    ) -> Any:
        del labels_BT
        count_B = jnp.full(len(ids_BT), 7.0) if memory is None else memory
        top1_BT = jnp.broadcast_to(count_B[:, None], ids_BT.shape)
        objective = None if terms is None else jnp.sum(terms.weights_BT) * params["a"]["w"]
        return Counted(Tokens(top1_BT), objective, count_B + 1)


class Tokens(NamedTuple):
    top1: Any


class Counted(NamedTuple):
    tokens: Tokens
    objective: Any
    memory: Any


@pytest.mark.parametrize("remembers", [False, True])
def test_a_teacher_visits_all_tasks_in_every_pass_and_only_steps_are_remembered(
    remembers: bool,
) -> None:
    teacher = Teacher(Counter(), SIZE, 0, remembers=remembers)
    visits = list(teacher.teach({"a": {"w": jnp.float32(1.0)}}))
    assert [visit.cue for visit in visits] == [0, 1, 2] * SIZE.passes
    known = [[0], [0, 1], [0, 1, 2], *[[0, 1, 2]] * (3 * SIZE.passes - 3)]
    assert [sorted(visit.after) for visit in visits] == known
    for number, visit in enumerate(visits):
        first = number * SIZE.steps
        steps = range(first, first + SIZE.steps) if remembers else [7.0] * SIZE.steps
        assert visit.right == pytest.approx(list(steps))
        # What is asked between visits leaves no trace.
        assert set(visit.after.values()) == {first + SIZE.steps if remembers else 7.0}


class Lesson:
    """A run whose training is counted and whose model counts calls."""

    trained = 0

    def train(self, seed: int, stages: Any) -> memory_side.Trained:
        del seed, stages
        self.trained += 1
        return memory_side.Trained({"a": {"w": jnp.float32(1.0)}}, 0.0)

    def model(self, segments: int) -> Counter:
        assert segments == 1
        return Counter()


def test_the_control_is_the_same_weights_with_memory_empty_in_every_step() -> None:
    judge, run = memory_turns.Judge(SIZE), Lesson()
    with_it, cleared = (judge(name, run, 0) for name in ("MTM", memory_turns.CONTROL))
    assert run.trained == 1
    rate = SIZE.rates[0]
    whole = SIZE.passes * SIZE.task.cues * SIZE.steps
    assert cleared[rate].learned == 7.0 and cleared[rate].forgetting == 0.0
    assert with_it[rate].learned == (SIZE.steps + whole) / 2


@pytest.mark.slow
def test_what_is_taught_is_learned() -> None:
    """Weights alone learn a cue's map, so that a visit ends with the task known; not at rate 0."""
    size = SIZE._replace(
        task=SIZE.task._replace(cues=2), base={**TINY, "d_model": 32}, passes=1, steps=80, rows=8
    )
    run = Run(size.base, size.task)
    params, _ = run.train(0, [memory_side.Stage(2, 4, 1)])
    teacher = Teacher(run.model(1), size, 0, remembers=False)
    still = list(teacher.teach(params, rate=0.0))
    assert max(max(visit.after.values()) for visit in still) < 0.9
    visits = list(teacher.teach(params))
    assert visits[0].right[0] < 0.9
    assert visits[0].after[0] > 0.95
    assert examples(visits[0], size) < 80 * 8 * 2


def test_keys_are_judged_in_text_that_was_not_trained_on() -> None:
    train, test = memory_passkey.tasks(memory_passkey.SMOKE)
    assert len(train.text_N) == 18_000
    assert len(test.text_N) == 2_000
    assert test.text_N.tobytes() not in train.text_N.tobytes()
    ran = memory_passkey.judged(memory_passkey.SMOKE, test, "none", Run(TINY, train), 0)
    assert ran.right == {2: 0.0, 4: 0.0}
    found = named(memory_passkey.results(memory_passkey.SMOKE, {"none": [ran]}, {"none": SIZED}))
    assert found["none/keys found, 4 segments"].holds
    found = named(memory_passkey.results(memory_passkey.SMOKE, {"LTM": [ran]}, {"LTM": SIZED}))
    assert found["LTM/keys found, 2 segments"].holds is False


def test_text_is_judged_whole() -> None:
    text = np.random.default_rng(0).integers(5, size=700)
    train, held_out = memory_text.tasks(memory_text.SMOKE, CharacterText(text, text[:600], 5))
    assert (len(train.ids_N), len(held_out.ids_N)) == (700, 600)
    ran = memory_text.trained(memory_text.SMOKE, held_out, "none", Run(TINY, train), 0)
    assert np.log(5) < ran.loss < 3.0, "nothing is to be learned"
    assert ran.later != ran.loss


def test_result_files_are_named_after_what_was_measured() -> None:
    flags = Namespace(smoke=False, only="", text="some/novel.txt", steps=None)
    assert memory_text.file_name(flags) == "memory_text-novel"
    longer = Namespace(**{**vars(flags), "steps": 800})
    assert memory_text.file_name(longer) == "memory_text-novel-800"
    flags.text = "python-library"
    for name, module in (
        ("memory_text", memory_text), ("memory_recall", memory_recall),
        ("memory_passkey", memory_passkey), ("memory_rule", memory_rule),
    ):  # fmt: skip
        assert module.file_name(flags) == name
        assert module.file_name(Namespace(**{**vars(flags), "only": "none"})) is None
        assert module.file_name(Namespace(**{**vars(flags), "smoke": True})) is None


@pytest.mark.slow
def test_forms_are_compared_on_both_tasks(tmp_path: Path) -> None:
    out = tmp_path / "forms.json"
    assert main(["memory_forms", "--smoke", "--out", str(out)]) == 0
    found = named(read_results(out).results)
    for side, parts in memory_forms.RULE.items():
        assert 0 <= found[f"{side}/rule right, 2 segments later"].value <= 100, parts
    totals = {name: found[f"{name}/parameters"].value for name in memory_forms.RULE}
    assert len(set(totals.values())) == 1
    assert "store of 64, novel, surprise/pairs right, 3 segments" in found
    assert set(memory_forms.RECALL).isdisjoint(memory_forms.RULE)


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIED)
def test_a_study_runs(name: str, tmp_path: Path) -> None:
    out = tmp_path / f"{name}.json"
    assert main([name, "--smoke", "--out", str(out)]) == 0
    found = named(read_results(out).results)
    totals = [result.value for name, result in found.items() if name.endswith("/parameters")]
    assert len(totals) >= 2
    assert max(totals) / min(totals) <= 1.01
    assert any(result.bar is not None for result in found.values())
    assert all(np.isfinite(result.value) for result in found.values())
