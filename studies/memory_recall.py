"""`python -m studies memory_recall`: associative recall from segments out of attention's reach.

Pairs of a key and a value stand in the first segment of a row, and up to 127 segments later the
keys ask for their values (`studies.memory_tasks.Recall`). A side is a tier of memory; all have the
same number of parameters and learn from the same rows, first short and then longer ones, of which
the longest of the test are several times as long. Two sides meet short rows only: the recurrent one
once more, to see what growing rows are worth, and the episodic one, which needs no others.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from rtdlm.evaluation.results import Bar, Result
from studies import memory_side as side
from studies import memory_study
from studies.memory_side import Run, Stage
from studies.memory_tasks import Recall
from studies.sides import add_only, each, shares_told, whole_name
from studies.variants import Tree

DESCRIPTION = "recall of pairs up to 127 segments old: no memory, each kind of it"
SEEDS = 3


class Size(NamedTuple):
    """A task, the model that all sides share, how it is trained and by what it is judged."""

    task: Recall
    more: Recall
    """The same with more pairs, on which nothing was trained."""
    base: Tree
    stages: Sequence[Stage]
    short: Sequence[Stage]
    """Of the sides that meet no long rows."""
    segments: Sequence[int]
    """Of the rows of the test; the first are those with more pairs, too."""
    rows: int

    def stages_of(self, name: str) -> Sequence[Stage]:
        """How a side is trained."""
        return self.short if name in (SHORT, EPISODIC) else self.stages


WHOLE = Size(
    Recall(), Recall(pairs=15), side.BASE,
    stages=(Stage(3, 32, 500), Stage(24, 6, 200)), short=(Stage(3, 32, 600),),
    segments=(3, 16, 128), rows=32,
)  # fmt: skip
SMOKE = Size(
    Recall(segment=16, pairs=2, keys=4, values=4, noise=4, queries=2),
    Recall(segment=16, pairs=3, keys=4, values=4, noise=4, queries=2),
    side.SMALL,
    stages=(Stage(3, 4, 2),), short=(Stage(3, 4, 2),),
    segments=(3,), rows=4,
)  # fmt: skip

SHORT = "gated delta, short rows only"
EPISODIC = "episodic, short rows only"
SUMMARIES = "summaries of 4 tokens"
TIERS: Mapping[str, Sequence[Tree]] = {
    "none": (),
    "STM": (side.STM,),
    "gated delta": (side.RECURRENT,),
    SHORT: (side.RECURRENT,),
    EPISODIC: (side.EPISODIC,),
    SUMMARIES: (side.SUMMARIES,),
}
"""What each side remembers with, tier on tier."""
POSITIONS: Mapping[str, str] = {EPISODIC: "rope"}
"""`position_encoding` of a side that learns faster with another than the rest, which have none."""


class Ran(NamedTuple):
    """One side with one seed."""

    right: Mapping[int, float]
    """Share of right answers by segments of a row."""
    more: float
    """The same with more pairs, on the shortest rows."""
    cpu: float
    """Of training alone [seconds]."""


def add_flags(parser: ArgumentParser) -> None:
    """Adds what only this study takes."""
    add_only(parser)


def file_name(flags: Namespace) -> str | None:
    """Name of the result file; None for a part of the study."""
    return whole_name(flags, "memory_recall")


def sides(size: Size) -> dict[str, Tree]:
    """Each side's configuration, all of the same number of parameters."""
    every = {
        name: side.with_memory(
            {**size.base, "position_encoding": POSITIONS.get(name, "none")}, *tiers
        )
        for name, tiers in TIERS.items()
    }
    return side.matched(every, size.task)


def measure(flags: Namespace) -> Iterator[list[Result]]:
    """The results so far, after every side and seed.

    Raises:
        UserError: no side has the word in its name.
    """
    size = SMOKE if flags.smoke else WHOLE
    runs = memory_study.runs_of(flags, sides(size), size.task, smoke=("none", "STM"))
    one = partial(judged, size)
    for ran in each(runs, one, lambda ran: shares_told(ran.right), flags=flags, usual=SEEDS):
        yield results(size, ran, runs)


def judged(size: Size, name: str, run: Run, seed: int) -> Ran:
    """Trains and judges one side."""
    params, cpu = run.train(seed, size.stages_of(name))
    right = {n: run.right(params, segments=n, rows=size.rows) for n in size.segments}
    more = run.right(params, segments=size.segments[0], rows=size.rows, task=size.more)
    return Ran(right, more, cpu)


def bar(name: str, segments: int, task: Recall) -> Bar | None:
    """What a side has to reach on rows of so many segments; 8 pairs, of 48 values."""
    # Of the segment before its window, a window has what the last tokens took along: attention
    # brings pairs to them, and convolutions go on from them into the window's first tokens.
    if name in (SHORT, SUMMARIES) or (name == "STM" and segments == 3):
        return None
    if name in ("none", "STM"):
        return ("<=", 100 * (task.chance + 0.03))
    if "episodic" in name:
        return (">=", 99.0)
    return (">=", 95.0 if segments <= 16 else 70.0)


def results(size: Size, ran: Mapping[str, Sequence[Ran]], runs: Mapping[str, Run]) -> list[Result]:
    """Everything that is told of the sides that ran."""
    found = []
    for name, own in ran.items():
        for segments in size.segments:
            shares = [100 * one.right[segments] for one in own]
            what = f"{name}/right, {segments} segments"
            found.append(Result.mean(what, shares, "%", bar=bar(name, segments, size.task)))
        what = f"{name}/right, {size.segments[0]} segments, {size.more.pairs} pairs"
        found.append(Result.mean(what, [100 * one.more for one in own], "%"))
        found += memory_study.costs(name, own, runs[name])
    return [*found, Result("guessing/right", 100 * size.task.chance, "%")]
