"""`python -m studies controller_modules`: four modules under one controller.

Rows are of four tasks, each of which needs another module (see `studies.mixture_tasks`), and of
none is it said whose it is. Sides differ in what runs:

    controller      the module that a learned policy chooses, for its rows alone
    all, by row     all modules for all rows, weighed by the policy's net
    all, alike      all modules for all rows, weighed alike for all of them: no controller
    random          a module that is dealt
    needed          the module that is needed, told: as well as one can choose
    memory alone    that module for all rows; and so on

Sides have the same modules, steps and rows. Operations are by the modules' contracts, the policy's
own included; times are of one compiled program on `rows` rows.

Axes: B batch, M modules.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.child import Timer, Times
from rtdlm.evaluation.results import Bar, Result
from studies import mixture_choice as way
from studies.mixture_modules import CONTRACTS
from studies.mixture_tasks import TASKS, Mixture, draw
from studies.sides import add_only, chosen, each, shares_told, whole_name
from studies.small_nets import Side, Trainer

DESCRIPTION = "memory, graph, circuit and depth under one controller, on a mixture of tasks"
SEEDS = 3
CONTROLLER, EVERY, ALIKE = "controller", "all, by row", "all, alike"
RANDOM, NEEDED, ALONE = "random", "needed", " alone"
RATE = 0.03
"""Of learning, for all sides: of 0.01 and 0.03 the one with which depth, the slowest module,
learned its task alone."""
PICKED: Bar = (">=", 90.0)
GAINED: Bar = (">=", 10.0)
"""Of accuracy, over what chooses at random for the same operations [points]."""
SAVED: Bar = (">=", 1.5)
"""By operations, against running all."""


class Size(NamedTuple):
    """How long sides are trained, and by how much they are judged."""

    steps: int
    batch: int
    rows: int
    """Of each test, and of what is timed."""
    turns: int
    """Times that a program is timed."""


WHOLE = Size(steps=4000, batch=128, rows=1024, turns=31)
SMOKE = Size(steps=2, batch=8, rows=16, turns=2)


class Kind(NamedTuple):
    """What a side trains, and what it runs."""

    learn: Callable[[hk.Transformed, Any, Mixture], jax.Array]
    run: Callable[[Any, Mixture], jax.Array]
    """`[B, Y]`: class scores."""
    choose: Callable[[Any, Mixture], jax.Array] | None = None
    """int32 `[B]`: the module that runs; None runs all."""
    policy: bool = False
    """Whether the policy's net runs."""


class Ran(NamedTuple):
    """One side with one seed."""

    right: Mapping[str, float]
    """By task [fraction]."""
    picked: Mapping[str, float]
    """Rows whose module is the needed one, by task [fraction]; empty where all run."""
    operations: float
    """A row."""
    times: Times
    """Of a program over a test's rows, medians [s]."""
    every: Times
    """The same rows and parameters, all modules for all of them."""
    cpu: float
    """Of training [s]."""


def kinds() -> dict[str, Kind]:
    """All sides."""
    found = {
        CONTROLLER: _one(way.learn_controlled, way.choose, policy=True),
        EVERY: _all(way.weigh_each, policy=True),
        ALIKE: _all(way.weigh_alike, policy=False),
        RANDOM: _one(way.learn_random, lambda _, mixture: way.dealt(mixture)),
        NEEDED: _one(way.learn_needed, lambda _, mixture: mixture.task_B),
    }
    for number, name in enumerate(TASKS):
        found[f"{name}{ALONE}"] = _one(partial(way.learn_one, name), partial(_always, number))
    return found


def _always(number: int, params: Any, mixture: Mixture) -> jax.Array:
    del params
    return jnp.full(len(mixture.answer_B), number)


def _one(learn: Any, choose: Any, *, policy: bool = False) -> Kind:
    def run(params: Any, mixture: Mixture) -> jax.Array:
        return way.run_chosen(params, mixture.rows, choose(params, mixture))

    return Kind(learn, run, choose, policy)


def _all(weigh: way.Weigh, *, policy: bool) -> Kind:
    def run(params: Any, mixture: Mixture) -> jax.Array:
        return way.run_mixed(params, mixture.rows, weigh(params, mixture.rows))

    return Kind(partial(way.learn_mixed, weigh), run, None, policy)


def add_flags(parser: ArgumentParser) -> None:
    """Adds what only this study takes."""
    add_only(parser)


def file_name(flags: Namespace) -> str | None:
    """Name of the result file; None for a part of the study."""
    return whole_name(flags, "controller_modules")


def measure(flags: Namespace) -> Iterator[list[Result]]:
    """The results so far, after every side and seed.

    Raises:
        UserError: no side has the word in its name.
    """
    size = SMOKE if flags.smoke else WHOLE
    found = chosen(flags, kinds(), smoke=(CONTROLLER, RANDOM))
    judges = {name: Judge(kind, size) for name, kind in found.items()}
    one = lambda name, judge, seed: judge(seed)  # noqa: E731
    for ran in each(judges, one, lambda ran: shares_told(ran.right), flags=flags, usual=SEEDS):
        yield results(ran)


@jax.jit
def run_every(params: Any, mixture: Mixture) -> jax.Array:
    """What every side is timed against."""
    return way.run_mixed(params, mixture.rows, way.weigh_each(params, mixture.rows))


class Judge:
    """Trains and tests one side."""

    def __init__(self, kind: Kind, size: Size) -> None:
        self._size, self._kind = size, kind
        self._run = jax.jit(kind.run)
        self._choose = None if kind.choose is None else jax.jit(kind.choose)
        net = hk.Transformed(way.init, way.decide)
        side = Side(net, kind.learn, partial(draw, batch=size.batch))
        self._trainer = Trainer(side, steps=size.steps)

    def __call__(self, seed: int) -> Ran:
        """One seed."""
        done = self._trainer.train(seed, rate=RATE)
        right, picked = self._judged(done.params)
        mine, every = self._timed(done.params)
        mixed = draw(jax.random.key(2**31), batch=self._size.rows)
        return Ran(right, picked, self._operations(done.params, mixed), mine, every, done.cpu)

    def _judged(self, params: Any) -> tuple[dict[str, float], dict[str, float]]:
        right, picked = {}, {}
        for number, task in enumerate(TASKS):
            # The same rows for every side and seed, which no seed of training draws.
            key = jax.random.key(2**31 + 1 + number)
            mixture = draw(key, batch=self._size.rows, tasks=(number,))
            answer_B = jnp.argmax(self._run(params, mixture), axis=-1)
            right[task] = float(jnp.mean(answer_B == mixture.answer_B))
            if self._choose is not None:
                picked[task] = float(jnp.mean(self._choose(params, mixture) == number))
        return right, picked

    def _operations(self, params: Any, mixture: Mixture) -> float:
        cost_M = np.array([CONTRACTS[name].cost() for name in TASKS])
        own = way.policy_cost() if self._kind.policy else 0.0
        if self._choose is None:
            return float(cost_M.sum() + own)
        return float(cost_M[np.asarray(self._choose(params, mixture))].mean() + own)

    def _timed(self, params: Any) -> tuple[Times, Times]:
        """Of the side's own program and of all modules, in turns."""
        mixture = draw(jax.random.key(2**31), batch=self._size.rows)
        found: dict[Any, list[Times]] = {self._run: [], run_every: []}
        for _ in range(1 + self._size.turns):
            for run, times in found.items():
                timer = Timer()
                jax.block_until_ready(run(params, mixture))
                times.append(timer.read())
        # The first compiles.
        mine, other = (Times(*np.median(times[1:], axis=0).tolist()) for times in found.values())
        return mine, other


def results(ran: Mapping[str, Sequence[Ran]]) -> list[Result]:
    """Everything that is told of the sides that ran."""
    found = []
    for name, own in ran.items():
        for task in TASKS:
            found.append(_share(f"{name}/right, {task}", [one.right[task] for one in own]))
        found.append(_share(f"{name}/right", [_mean(one.right) for one in own]))
        found += [
            Result.mean(f"{name}/operations a row", [one.operations for one in own], ""),
            Result.mean(f"{name}/wall", [1e3 * one.times.wall for one in own], "ms"),
            Result.mean(f"{name}/CPU", [1e3 * one.times.cpu for one in own], "ms"),
            Result.mean(f"{name}/CPU of training", [one.cpu for one in own], "s"),
        ]
    return found + _picks(ran.get(CONTROLLER, ())) + _ablations(ran)


def _picks(own: Sequence[Ran]) -> list[Result]:
    """How often the controller runs what is needed."""
    if not own:
        return []
    name = f"{CONTROLLER}, the needed module chosen"
    found = [
        _share(f"{name}/right, {task}", [one.picked[task] for one in own], bar=PICKED)
        for task in TASKS
    ]
    return [*found, _share(f"{name}/right", [_mean(one.picked) for one in own], bar=PICKED)]


def _ablations(ran: Mapping[str, Sequence[Ran]]) -> list[Result]:
    """What goes without the controller, seed by seed."""
    found, own = [], ran.get(CONTROLLER, ())
    for name in (EVERY, ALIKE, RANDOM, NEEDED):
        pairs = list(zip(ran.get(name, ()), own, strict=False))
        if not pairs:
            continue
        lost = [100 * (_mean(one.right) - _mean(other.right)) for other, one in pairs]
        more = [other.operations / one.operations for other, one in pairs]
        bars = (GAINED if name == RANDOM else None, SAVED if name in (EVERY, ALIKE) else None)
        title = f"without the controller: {name}"
        found += [
            Result.mean(f"{title}/right, less", lost, "points", bar=bars[0]),
            Result.mean(f"{title}/operations, more", more, "x", bar=bars[1]),
        ]
    if own:
        for clock in ("wall", "cpu"):
            sooner = [getattr(one.every, clock) / getattr(one.times, clock) for one in own]
            label = "CPU" if clock == "cpu" else clock
            name = f"{CONTROLLER} beside all modules/sooner, {label}"
            found.append(Result.mean(name, sooner, "x", bar=(">=", 1.0)))
    return found


def _share(name: str, shares: Sequence[float], *, bar: Bar | None = None) -> Result:
    return Result.mean(name, [100 * share for share in shares], "%", bar=bar)


def _mean(shares: Mapping[str, float]) -> float:
    return sum(shares.values()) / len(shares)
