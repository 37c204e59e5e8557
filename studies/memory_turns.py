"""`python -m studies memory_turns`: tasks in turn, with and without a memory of tasks (MTM).

Eight tasks, each a cue that stands for one of eight maps (`studies.memory_tasks.Turns`), are taught
one after the other, for three passes; every step changes the weights. One side has an MTM with a
slot a task, which goes along from step to step, the other none and wider feed-forward layers. The
control is the first with its memory cleared before every step. Before, all learn by the same rows
of lessons of ever new tasks what a lesson is, so that a memory knows what it is for. Then the tasks
are taught at several learning rates, and each side counts at the rate that suits it best: at which,
over all seeds, a returning task is known soonest.

    examples    asked until 90 % of a step's are right before the map is named, when a task returns;
                all of a visit's where they never are
    learned     right at the end of a visit
    forgetting  that, less right at the beginning of the next
    earlier     right after each visit, of the tasks that were taught before it
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from statistics import mean
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rtdlm.evaluation.results import Result
from rtdlm.training.knobs import Knobs
from rtdlm.training.loss import loss_terms
from rtdlm.training.optimizer import Progress, make_optimizer
from studies import memory_side as side
from studies.memory_side import Run, Stage, Trained
from studies.memory_tasks import Asked, Turns
from studies.sides import each
from studies.variants import Tree, merged

DESCRIPTION = "eight tasks in turn: examples until one that returns is known again, forgetting"
SEEDS = 3
RATES = (8.0, 2.0, 0.5, 0.1, 0.02, 0.0)
"""At which tasks are taught, over the rate before; at 0 only a memory can learn."""
CONTROL = "MTM cleared"
"""The side with MTM, the same weights before the tasks, whose memory is empty in every step."""
ENOUGH = 0.9
JUDGED = 8
"""Batches by which a task is judged between visits."""


class Size(NamedTuple):
    """A task, the model that both sides share, and how long each part is."""

    task: Turns
    base: Tree
    stages: Sequence[Stage]
    """Before the tasks."""
    passes: int
    steps: int
    """Of a visit to a task."""
    rows: int
    """Of a step; lessons of one segment."""
    rates: Sequence[float]
    """Of teaching, over the highest before."""


WHOLE = Size(
    Turns(), merged(side.BASE, {"num_layers": 2}),
    stages=(Stage(6, 32, 400), Stage(32, 8, 150)), passes=3, steps=60, rows=8, rates=RATES,
)  # fmt: skip
SMOKE = Size(
    Turns(inputs=4, before=2, behind=1, cues=3),
    side.SMALL,
    stages=(Stage(2, 2, 2),), passes=2, steps=3, rows=2, rates=RATES[:2],
)  # fmt: skip


class Visit(NamedTuple):
    """One task taught for a while."""

    cue: int
    right: Sequence[float]
    """Of each step, before it [fraction]."""
    after: Mapping[int, float]
    """At the end, of each task taught so far [fraction]."""


class Ran(NamedTuple):
    """One side with one seed, taught at one rate."""

    first: float
    """Examples until a task was known, in the first pass."""
    again: float
    """The same when it returned."""
    learned: float
    """[fraction]"""
    forgetting: float
    """[fraction]"""
    earlier: float
    """[fraction]"""


Rated = Mapping[float, Ran]
"""One side with one seed, by the rate at which it was taught."""


def add_flags(parser: ArgumentParser) -> None:
    """This study takes none of its own."""


def file_name(flags: Namespace) -> str | None:
    """Name of the result file."""
    return None if flags.smoke else "memory_turns"


def tiers(size: Size) -> dict[str, Sequence[Tree]]:
    """What each side remembers with."""
    slots: Tree = {"task_tokens": 4, "task_slots": size.task.cues}
    return {"none": (), "MTM": (side.TASK, slots)}


def sides(size: Size) -> dict[str, Tree]:
    """Each side's configuration, both of the same number of parameters."""
    every = {name: side.with_memory(size.base, *own) for name, own in tiers(size).items()}
    return side.matched(every, size.task)


def measure(flags: Namespace) -> Iterator[list[Result]]:
    """The results so far, after every side and seed."""
    size = SMOKE if flags.smoke else WHOLE
    runs = {name: Run(tree, size.task) for name, tree in sides(size).items()}
    runs[CONTROL] = runs["MTM"]
    parameters = {name: run.parameters for name, run in runs.items()}
    for ran in each(runs, Judge(size), told, flags=flags, usual=SEEDS):
        yield results(ran, parameters=parameters)


class Judge:
    """Trains a side on lessons, once for all that is asked of it, and teaches it the tasks."""

    def __init__(self, size: Size) -> None:
        self._size = size
        self._trained = cache(self._train)

    def __call__(self, name: str, run: Run, seed: int) -> Rated:
        """The side `name` with one seed, at every rate."""
        size, params = self._size, self._trained(run, seed).params
        teacher = Teacher(run.model(1), size, seed, remembers=name == "MTM")
        return {rate: summed(size, list(teacher.teach(params, rate=rate))) for rate in size.rates}

    def _train(self, run: Run, seed: int) -> Trained:
        return run.train(seed, self._size.stages)


def told(ran: Rated) -> str:
    """What is printed of a side with a seed."""
    rate = best_rate([ran])
    again, forgetting = ran[rate].again, ran[rate].forgetting
    return (
        f"{again:.0f} examples when a task returned, {forgetting:.1%} forgotten, at rate {rate:g}"
    )


def best_rate(runs: Sequence[Rated]) -> float:
    """The one at which a returning task is known soonest, on average; of equals the highest."""
    return min(runs[0], key=lambda rate: (mean(run[rate].again for run in runs), -rate))


class Lessons(NamedTuple):
    """What is taught with one seed, drawn as it goes."""

    size: Size
    random: np.random.Generator
    map_C: np.ndarray
    """Number of each cue's map."""

    @classmethod
    def of_seed(cls, size: Size, seed: int) -> "Lessons":
        """From the first lesson on."""
        random = np.random.default_rng([seed, 1])
        return cls(size, random, size.task.maps(random, count=size.task.cues))

    def draw(self, cue: int) -> Asked:
        """Rows of one step."""
        task, rows = self.size.task, self.size.rows
        return task.lesson(self.random, rows=rows, cue=cue, number=int(self.map_C[cue]))


class Teacher:
    """Teaches all tasks in turn and asks for what is left of them."""

    def __init__(self, model: Any, size: Size, seed: int, *, remembers: bool) -> None:
        """`model` takes rows of one segment; `remembers` if its memory goes from step to step."""
        self._model, self._size, self._seed = model, size, seed
        self._remembers = remembers
        self._optimizer = make_optimizer(model.config.optimizer)
        self._step, self._judge = jax.jit(self._make_step()), jax.jit(self._scored)

    def teach(self, params: Any, *, rate: float = 1.0) -> Iterator[Visit]:
        """All visits of all passes, in order, at a learning rate of so many times the highest."""
        size, lessons = self._size, Lessons.of_seed(self._size, self._seed)
        knobs = Knobs.from_config(self._model.config)
        knobs = knobs._replace(learning_rate_scale=jnp.float32(rate))
        moved = jax.jit(self._optimizer.init)(params)
        memory = self._model.empty_memory(size.rows) if self._remembers else None
        number, taught = 0, []
        for _ in range(size.passes):
            for cue in range(size.task.cues):
                taught += [] if cue in taught else [cue]
                right = []
                for _ in range(size.steps):
                    # The schedule stands at its peak.
                    progress = Progress(jnp.int32(number), jnp.float32(0.0))
                    params, moved, memory, share = self._step(
                        params, moved, memory, lessons.draw(cue), progress, knobs
                    )
                    right.append(float(share))
                    number += 1
                after = {task: self._known(params, memory, lessons, task) for task in taught}
                yield Visit(cue, right, after)

    def _known(self, params: Any, memory: Any, lessons: Lessons, cue: int) -> float:
        """Share of a task's that is right; nothing is learned or kept of it."""
        found = []
        for _ in range(JUDGED):
            lesson = lessons.draw(cue)
            found.append(float(_right(self._judge(params, memory, lesson), lesson)))
        return mean(found)

    def _scored(self, params: Any, memory: Any, lesson: Asked, terms: Any = None) -> Any:
        own: dict[str, Any] = {} if terms is None else {"terms": terms}
        if self._remembers:
            own["memory"] = memory
        return self._model.scores(params, lesson.ids_BT, lesson.labels_BT, **own)

    def _make_step(self) -> Callable[..., tuple[Any, Any, Any, jax.Array]]:
        def step(
            params: Any, moved: Any, memory: Any, lesson: Asked, progress: Progress, knobs: Knobs
        ) -> tuple[Any, Any, Any, jax.Array]:
            weight = jnp.sum(lesson.weights_BT)
            terms = loss_terms(lesson.weights_BT, knobs, scale=1.0 / weight)

            def loss(params: Any) -> tuple[jax.Array, Any]:
                scores = self._scored(params, memory, lesson, terms)
                return scores.objective / weight, scores

            grads, scores = jax.grad(loss, has_aux=True)(params)
            params, moved = side.update(self._optimizer, knobs, progress, params, moved, grads)
            kept = scores.memory if self._remembers else None
            return params, moved, kept, _right(scores, lesson)

        return step


def _right(scores: Any, lesson: Asked) -> jax.Array:
    asked_BT = jnp.asarray(lesson.asked_BT, jnp.float32)
    return jnp.sum(scores.tokens.top1 * asked_BT) / jnp.sum(asked_BT)


def examples(visit: Visit, size: Size) -> int:
    """Asked until enough were right, those of that step included."""
    enough = [number for number, share in enumerate(visit.right, 1) if share >= ENOUGH]
    return (enough[0] if enough else len(visit.right)) * size.rows * size.task.before


def summed(size: Size, visits: Sequence[Visit]) -> Ran:
    """What came of all visits, pass after pass."""
    count = size.task.cues
    first, again = visits[:count], visits[count:]
    before = visits[: len(again)]
    """The same tasks, a pass earlier."""
    forgotten = [old.after[old.cue] - new.right[0] for old, new in zip(before, again, strict=True)]
    earlier = [share for visit in visits for cue, share in visit.after.items() if cue != visit.cue]
    return Ran(
        mean(examples(visit, size) for visit in first),
        mean(examples(visit, size) for visit in again),
        mean(visit.after[visit.cue] for visit in visits),
        mean(forgotten),
        mean(earlier),
    )


def results(ran: Mapping[str, Sequence[Rated]], *, parameters: Mapping[str, int]) -> list[Result]:
    """Everything that is told of both sides, and of each at its best beside the other."""
    found = []
    for name, runs in ran.items():
        for rate in runs[0]:
            at = [run[rate] for run in runs]
            title = f"{name}, rate {rate:g}"
            found += [
                Result.mean(f"{title}/examples, first pass", [run.first for run in at], ""),
                Result.mean(f"{title}/examples when it returns", [run.again for run in at], ""),
                Result.mean(f"{title}/learned", [100 * run.learned for run in at], "%"),
                Result.mean(f"{title}/forgetting", [100 * run.forgetting for run in at], "%"),
                Result.mean(f"{title}/earlier tasks right", [100 * run.earlier for run in at], "%"),
            ]
        found += [
            Result(f"{name}/parameters", float(parameters[name]), ""),
            Result(f"{name}/best rate", best_rate(runs), ""),
        ]
    return [*found, *_beside(ran, "none"), *_beside(ran, CONTROL)]


def _beside(ran: Mapping[str, Sequence[Rated]], other: str) -> list[Result]:
    """MTM beside another side, seed by seed; nothing while one has fewer than the other."""
    without, with_it = (ran.get(name, ()) for name in (other, "MTM"))
    if not without or len(without) != len(with_it):
        return []
    none, mtm = ([run[best_rate(runs)] for run in runs] for runs in (without, with_it))
    fewer = [a.again / b.again for a, b in zip(none, mtm, strict=True)]
    less = min(run.forgetting for run in none) - max(run.forgetting for run in mtm)
    title = f"MTM beside {other}, each at its best rate"
    return [
        Result.mean(f"{title}/examples fewer", fewer, "x", bar=(">=", 2.0)),
        Result(f"{title}/forgotten less than in every seed", 100 * less, "%", bar=(">=", 0.0)),
    ]
