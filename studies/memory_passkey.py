"""`python -m studies memory_passkey`: five digits found again far behind attention's window.

The digits stand at a random depth in the sources of Python's library and are asked for at the end
of a row of up to 64 segments (`studies.memory_tasks.Passkey`; after arXiv 2305.16300). A side is a
tier of memory; all have the same number of parameters and learn from the same rows, which grow to
an eighth of the longest in the test. Rows of training have three segments at least, so that a key
is told across a segment's end, too. A key is right if all its digits are.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from rtdlm.evaluation.results import Bar, Result
from studies import memory_side as side
from studies import memory_study
from studies.library_text import library_text
from studies.memory_side import Run, Stage
from studies.memory_tasks import Passkey
from studies.sides import add_only, each, shares_told, whole_name
from studies.variants import Tree

DESCRIPTION = "a passkey in real text, 16 to 64 windows behind"
SEEDS = 3


class Size(NamedTuple):
    """A task, the model that all sides share, how it is trained and by what it is judged."""

    characters: int
    """Of the text; the last tenth is the test's."""
    segment: int
    base: Tree
    stages: Sequence[Stage]
    segments: Sequence[int]
    rows: int


WHOLE = Size(
    characters=4_000_000, segment=128, base=side.BASE,
    stages=(Stage(3, 16, 500), Stage(8, 6, 250)), segments=(16, 32, 64), rows=32,
)  # fmt: skip
SMOKE = Size(
    characters=20_000, segment=64, base=side.SMALL,
    stages=(Stage(2, 2, 2),), segments=(2, 4), rows=4,
)  # fmt: skip

WINDOW: Tree = {"stm_window": 128}
TIERS: Mapping[str, Sequence[Tree]] = {
    "none": (),
    "STM": (WINDOW,),
    "recurrent": (side.RECURRENT,),
    "episodic": (side.EPISODIC,),
    "LTM": (side.RECURRENT, side.EPISODIC),
    "all": (WINDOW, side.RECURRENT, side.EPISODIC, side.TASK),
}
BARS: Mapping[str, Bar] = {"none": ("<=", 1.0), "LTM": (">=", 95.0)}
"""Of the share of keys [%], whatever their distance."""


class Ran(NamedTuple):
    """One side with one seed."""

    right: Mapping[int, float]
    """Share of keys found, by segments of a row."""
    cpu: float
    """Of training alone [seconds]."""


def add_flags(parser: ArgumentParser) -> None:
    """Adds what only this study takes."""
    add_only(parser)


def file_name(flags: Namespace) -> str | None:
    """Name of the result file; None for a part of the study."""
    return whole_name(flags, "memory_passkey")


def tasks(size: Size) -> tuple[Passkey, Passkey]:
    """The task in the text that is trained on, and in the rest."""
    text = library_text(characters=size.characters).encode()
    split = int(0.9 * len(text))
    train, test = (
        Passkey(np.frombuffer(part, np.uint8), segment=size.segment)
        for part in (text[:split], text[split:])
    )
    return train, test


def measure(flags: Namespace) -> Iterator[list[Result]]:
    """The results so far, after every side and seed.

    Raises:
        UserError: no side has the word in its name.
    """
    size = SMOKE if flags.smoke else WHOLE
    train, test = tasks(size)
    sides = memory_study.equal_sides(size.base, TIERS, train)
    runs = memory_study.runs_of(flags, sides, train, smoke=("none", "STM"))
    one = partial(judged, size, test)
    for ran in each(runs, one, lambda ran: shares_told(ran.right), flags=flags, usual=SEEDS):
        yield results(size, ran, runs)


def judged(size: Size, test: Passkey, name: str, run: Run, seed: int) -> Ran:
    """Trains and judges one side."""
    del name
    params, cpu = run.train(seed, size.stages)
    right = {
        n: run.right(params, segments=n, rows=size.rows, task=test, together=True)
        for n in size.segments
    }
    return Ran(right, cpu)


def results(size: Size, ran: Mapping[str, Sequence[Ran]], runs: Mapping[str, Run]) -> list[Result]:
    """Everything that is told of the sides that ran."""
    found = []
    for name, own in ran.items():
        for segments in size.segments:
            shares = [100 * one.right[segments] for one in own]
            what = f"{name}/keys found, {segments} segments"
            found.append(Result.mean(what, shares, "%", bar=BARS.get(name)))
        found += memory_study.costs(name, own, runs[name])
    return found
