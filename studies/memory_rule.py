"""`python -m studies memory_rule`: which of several hidden rules a row began with.

Three examples in the first segment tell which of four hidden maps a row has; up to 64 segments
later it is asked for the images of other inputs (`studies.memory_tasks.Rule`). A side is a tier of
memory. Then the test that tells the task's own memory (MTM) from the others: the examples stand in
one session, all queries in the next, and between the two what was seen (STM) and what was learned
of this session (LTM) is cleared. The control clears MTM too.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import NamedTuple

from rtdlm.evaluation.results import Bar, Result
from studies import memory_side as side
from studies import memory_study
from studies.memory_side import Run, Stage, Trained
from studies.memory_tasks import Rule
from studies.sides import add_only, each, shares_told, whole_name
from studies.variants import Tree, merged

DESCRIPTION = "a hidden rule 2 to 64 segments later, and in a later session from MTM alone"
SEEDS = 3
CLEARED = ("stm", "ltm")
"""Between sessions."""


class Size(NamedTuple):
    """A task, the model that all sides share, how it is trained and by what it is judged."""

    task: Rule
    base: Tree
    stages: Sequence[Stage]
    later: Sequence[int]
    """Segments between the examples' and the one that asks in the test."""
    session_stages: Sequence[Stage]
    session_segments: Sequence[int]
    """Of each of the two sessions of the test."""
    rows: int


WHOLE = Size(
    Rule(), merged(side.BASE, {"num_layers": 2}),
    stages=(Stage(3, 32, 600), Stage(24, 6, 170)), later=(2, 15, 64),
    session_stages=(Stage(2, 32, 700),), session_segments=(2, 16),
    rows=256,
)  # fmt: skip
SMOKE = Size(
    Rule(segment=16, inputs=6, maps=2, examples=2, noise=4, queries=4),
    {**side.SMALL, "num_layers": 1},
    stages=(Stage(3, 4, 2),), later=(2,),
    session_stages=(Stage(2, 4, 2),), session_segments=(2,),
    rows=4,
)  # fmt: skip

TIERS: Mapping[str, Sequence[Tree]] = {
    "none": (),
    "STM": (side.STM,),
    "recurrent": (side.RECURRENT,),
    "MTM": (side.TASK,),
    "all": (side.STM, side.RECURRENT, side.TASK),
}
SESSIONS: Mapping[str, Sequence[str]] = {
    "MTM alone": CLEARED,
    "control, MTM cleared too": (*CLEARED, "mtm"),
    "nothing cleared": (),
}
"""What the test clears between sessions, of a side with all tiers trained on `CLEARED`."""


class Ran(NamedTuple):
    """One side with one seed."""

    right: Mapping[int, float]
    """Share of right answers by segments."""
    cpu: float
    """Of training alone [seconds]."""


def add_flags(parser: ArgumentParser) -> None:
    """Adds what only this study takes."""
    add_only(parser)


def file_name(flags: Namespace) -> str | None:
    """Name of the result file; None for a part of the study."""
    return whole_name(flags, "memory_rule")


def measure(flags: Namespace) -> Iterator[list[Result]]:
    """The results so far, after every side and seed.

    Raises:
        UserError: no side has the word in its name.
    """
    size = SMOKE if flags.smoke else WHOLE
    sides = memory_study.equal_sides(size.base, TIERS, size.task)
    runs = memory_study.runs_of(flags, sides, size.task, smoke=("none", "all"))
    if "all" in runs:
        runs |= dict.fromkeys(SESSIONS, Run(sides["all"], two_sessions(size), cleared=CLEARED))
    one, told = Judge(size), lambda ran: shares_told(ran.right)
    for ran in each(runs, one, told, flags=flags, usual=SEEDS):
        yield results(size, ran, runs)


def two_sessions(size: Size) -> Rule:
    """The task with its examples in one session and the test's queries in the next."""
    return size.task._replace(sessions=2)


class Judge:
    """Trains and judges one side; that of two sessions once for all that is asked of it."""

    def __init__(self, size: Size) -> None:
        self._size = size
        self._in_sessions = cache(self._train_in_sessions)

    def __call__(self, name: str, run: Run, seed: int) -> Ran:
        """The side `name` with one seed."""
        size = self._size
        if name not in SESSIONS:
            params, cpu = run.train(seed, size.stages)
            right = {n: run.right(params, segments=n + 1, rows=size.rows) for n in size.later}
            return Ran(right, cpu)
        params, cpu = self._in_sessions(run, seed)
        cleared = SESSIONS[name]
        right = {
            n: run.right(params, segments=n, rows=size.rows, cleared=cleared)
            for n in size.session_segments
        }
        return Ran(right, cpu)

    def _train_in_sessions(self, run: Run, seed: int) -> Trained:
        return run.train(seed, self._size.session_stages)


def bar(name: str, later: int, size: Size) -> Bar | None:
    """What a side has to reach so many segments later, or in sessions of so many."""
    if name == "STM" and later <= size.base["num_layers"]:
        return None  # a segment a layer is within reach
    if name in ("none", "STM") or name.startswith("control"):
        return ("<=", 100 * (size.task.chance + 0.05))
    return None if name == "nothing cleared" else (">=", 95.0)


def results(size: Size, ran: Mapping[str, Sequence[Ran]], runs: Mapping[str, Run]) -> list[Result]:
    """Everything that is told of the sides that ran."""
    found = []
    for name, own in ran.items():
        session = name in SESSIONS
        for place in size.session_segments if session else size.later:
            what = f"two sessions of {place} segments" if session else f"{place} segments later"
            shares = [100 * one.right[place] for one in own]
            what = f"{name}/right, {what}"
            found.append(Result.mean(what, shares, "%", bar=bar(name, place, size)))
        if not session:
            found += memory_study.costs(name, own, runs[name])
    return [*found, Result("guessing/right", 100 * size.task.chance, "%")]
