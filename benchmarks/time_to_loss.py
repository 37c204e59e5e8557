"""`python -m benchmarks time-to-loss`: CPU seconds until the peer's held-out loss is reached.

Character-level text, 90/10 split, loss over the whole held-out part in windows of 64. The peer
trains its standard recipe for 2,000 steps (and for 10,000: the class "long"); the mean of its final
losses over the seeds is the target, and ours is timed until it first is at or below it. The tuned
peer, whose recipe a small grid found, is timed in the same way. Every run is one thread on a core
of its own, so that seeds may run side by side; evaluation counts on no side, and compilation is
shown beside the training time.
"""

import math
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any, NamedTuple

from benchmarks.child import Answer
from benchmarks.ours import recipes
from benchmarks.peer.grid import SIDE, save, search, tuned_options
from benchmarks.runner import (
    Case,
    Plan,
    cache_environment,
    cores,
    require_torch,
    run_all,
    scratch,
    tell,
)
from benchmarks.text import add_text_flag, read_characters
from rtdlm.evaluation.results import Bar, Result

DESCRIPTION = "CPU seconds to the peer's held-out loss on characters, in four classes"
REPEATS = 3
STEPS = {"standard": 2_000, "long": 10_000}
SMOKE_RECIPE = {"steps": 20, "warmup_steps": 2}
SMOKE_SHAPE = {"length": 16, "d_model": 16, "num_layers": 1, "num_heads": 2, "d_ff": 32}


class Runs(NamedTuple):
    """One side with its options, over all seeds."""

    side: str
    """"module:function"; see `benchmarks.timing.Side`."""
    options: Mapping[str, Any] = {}


class Class(NamedTuple):
    """What is compared, and how much sooner ours is to be."""

    target: str
    """The peer whose final loss is to be reached."""
    against: str
    """The peer whose CPU seconds are divided by ours."""
    bar: float
    wall_bar: float | None = None
    """Bar on wall time from the shell prompt, with warm caches."""


CLASSES = {
    "free": Class("standard", "standard", 40.0, wall_bar=10.0),
    "same class": Class("standard", "standard", 9.0),
    "tuned peer": Class("standard", "tuned", 5.0),
    "long": Class("long", "long", 10.0),
}
SIDE_OF_OURS = "benchmarks.ours.side:train"
OURS: dict[str, Runs] = {
    "free": Runs(SIDE_OF_OURS, {"config": recipes.FREE}),
    "same class": Runs(SIDE_OF_OURS, {"config": recipes.SAME_CLASS}),
    "tuned peer": Runs(SIDE_OF_OURS, {"config": recipes.FREE}),
    "long": Runs(SIDE_OF_OURS, {"config": recipes.LONG}),
}
"""Class -> our side in it."""


def add_flags(parser: ArgumentParser) -> None:
    """Adds what only this benchmark takes."""
    add_text_flag(parser)
    parser.add_argument(
        "--classes", nargs="+", choices=CLASSES, default=list(CLASSES), metavar="NAME",
        help=f"which of {', '.join(CLASSES)} (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--at-once", type=int, default=len(cores()), metavar="N",
        help="runs side by side, on a core each (default: as many as there are cores)",
    )  # fmt: skip
    parser.add_argument(
        "--grid", action="store_true",
        help="search for the tuned peer's recipe first, and keep it in benchmarks/peer/tuned.json",
    )  # fmt: skip


def measure(plan: Plan, flags: Namespace) -> list[Result]:
    """The results of the peers, and of ours in each class."""
    require_torch()
    read_characters(flags.text)
    tell(f"one thread a run, {min(flags.at_once, len(cores()))} at once, a core each")
    with scratch() as directory:
        bench = _Bench(plan, flags, cache_environment(directory))
        return bench.results()


class _Bench:
    """The runs of one call: peers are trained once, however many classes ask for them."""

    def __init__(self, plan: Plan, flags: Namespace, environment: Mapping[str, str]) -> None:
        self._plan, self._flags, self._environment = plan, flags, environment
        self._peers: dict[str, list[Answer]] = {}
        self._results: list[Result] = []

    def results(self) -> list[Result]:
        if self._flags.grid:
            self._grid()
        for name in self._flags.classes:
            self._class(name, CLASSES[name])
        return self._results

    def _class(self, name: str, what: Class) -> None:
        target = mean(answer["loss"] for answer in self._peer(what.target))
        theirs = self._peer(what.against)
        if name not in OURS:
            tell(f"class {name!r} has no side of ours")
            return
        self._run(OURS[name], target, seeds=1)  # fills the compilation cache
        ours = self._run(OURS[name], target)
        title = f"ours, {name}"
        self._results += _described(title, ours)
        reached = sum(answer["reached"] for answer in ours)
        self._results.append(
            Result(f"{title}/seeds that reached {target:.4f}", reached, "", (">=", len(ours)))
        )
        sooner = _ratio(theirs, ours, "cpu_seconds")
        self._results.append(Result.mean(f"{title}/sooner, CPU", sooner, "x", bar=(">=", what.bar)))
        bar: Bar | None = None if what.wall_bar is None else (">=", what.wall_bar)
        prompt = _ratio(theirs, ours, "prompt_wall_seconds")
        self._results.append(Result.mean(f"{title}/sooner, from the prompt", prompt, "x", bar=bar))

    def _peer(self, name: str) -> list[Answer]:
        """All seeds of a peer; trained when first asked for."""
        if name not in self._peers:
            target = None
            if name == "tuned":
                target = mean(answer["loss"] for answer in self._peer("standard"))
            trained = {"recipe": SMOKE_RECIPE} if self._plan.smoke else _options(name)
            options = {**trained, "shape": self._shape}
            answers = self._run(Runs(SIDE, options), target)
            self._peers[name] = answers
            self._results += _described(f"peer, {name}", answers)
        return self._peers[name]

    def _grid(self) -> None:
        target = mean(answer["loss"] for answer in self._peer("standard"))
        runs = search(
            self._flags.text,
            target,
            shape=self._shape,
            smoke=self._plan.smoke,
            at_once=self._flags.at_once,
        )
        if not self._plan.smoke:
            save(runs, target)

    @property
    def _shape(self) -> dict[str, Any]:
        return SMOKE_SHAPE if self._plan.smoke else {}

    def _run(self, runs: Runs, target: float | None, *, seeds: int | None = None) -> list[Answer]:
        cases = []
        for seed in range(seeds or self._plan.repeats):
            spec = {
                "side": runs.side,
                "text": str(self._flags.text.resolve()),
                "seed": seed,
                "target": target,
                "options": dict(runs.options),
            }
            case = Case("benchmarks.sides.time_to_loss", spec, environment=self._environment)
            cases.append(case)
        return run_all(cases, at_once=self._flags.at_once)


def _options(peer: str) -> dict[str, Any]:
    """What of a peer differs from its side's standard."""
    return tuned_options() if peer == "tuned" else {"recipe": {"steps": STEPS[peer]}}


def _described(title: str, answers: Sequence[Answer]) -> list[Result]:
    """Everything that is told of one side."""
    quantities = {
        "loss": ("loss", "nats"),
        "steps": ("steps", ""),
        "CPU": ("cpu_seconds", "s"),
        "wall": ("wall_seconds", "s"),
        "compile CPU": ("compile_cpu_seconds", "s"),
        "compile wall": ("compile_wall_seconds", "s"),
        "from the prompt": ("prompt_wall_seconds", "s"),
        "parameters": ("parameters", ""),
    }
    return [
        Result.mean(f"{title}/{name}", [float(answer[key]) for answer in answers], unit)
        for name, (key, unit) in quantities.items()
    ]


def _ratio(theirs: Sequence[Answer], ours: Sequence[Answer], key: str) -> list[float]:
    """Theirs over ours, seed by seed; 0 where ours never reached the target."""
    pairs = zip(theirs, ours, strict=True)
    return [their[key] / (our[key] if our["reached"] else math.inf) for their, our in pairs]
