"""`python -m studies memory_passkey`: five digits found again far behind attention's window.

The digits stand at a random depth in the sources of Python's library and are asked for at the end
of a row of up to 64 segments (`studies.memory_tasks.Passkey`; after arXiv 2305.16300). A side is a
tier of memory; all have the same number of parameters and learn from the same rows, which grow to a
quarter of the longest in the test. A key is right if all its digits are.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.runner import tell
from rtdlm.evaluation.results import Bar, Result
from rtdlm.parallel import keep_compiled_programs
from rtdlm.training.allocator import keep_freed_memory
from studies import memory_side as side
from studies.library_text import library_text
from studies.memory_side import Run, Stage
from studies.memory_tasks import Passkey
from studies.recipe import named_with
from studies.variants import Tree, Variant, merged

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
    characters=4_000_000, segment=128, base=merged(side.BASE, {"num_layers": 2}),
    stages=(Stage(2, 16, 300), Stage(4, 16, 300), Stage(16, 6, 150)),
    segments=(16, 32, 64), rows=64,
)  # fmt: skip
SMOKE = Size(
    characters=20_000, segment=64, base=side.SMALL,
    stages=(Stage(2, 2, 2), Stage(3, 2, 2)), segments=(2, 4), rows=4,
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
    parser.add_argument(
        "--only", default="", metavar="WORD", help="sides with this in their name",
    )  # fmt: skip


def file_name(flags: Namespace) -> str | None:
    """Name of the result file; None for a part of the study."""
    return None if flags.smoke or flags.only else "memory_passkey"


def tasks(size: Size) -> tuple[Passkey, Passkey]:
    """The task in the text that is trained on, and in the rest."""
    text = library_text(characters=size.characters).encode()
    split = int(0.9 * len(text))
    train, test = (
        Passkey(np.frombuffer(part, np.uint8), segment=size.segment)
        for part in (text[:split], text[split:])
    )
    return train, test


def sides(size: Size, task: Passkey) -> dict[str, Tree]:
    """Each side's configuration, all of the same number of parameters."""
    every = {name: side.with_memory(size.base, *tiers) for name, tiers in TIERS.items()}
    return side.matched(every, task)


def measure(flags: Namespace) -> Iterator[list[Result]]:
    """The results so far, after every side and seed.

    Raises:
        UserError: no side has the word in its name.
    """
    keep_freed_memory()
    keep_compiled_programs()
    size = SMOKE if flags.smoke else WHOLE
    seeds = flags.seeds or (1 if flags.smoke else SEEDS)
    train, test = tasks(size)
    every = (Variant(name, tree) for name, tree in sides(size, train).items())
    chosen = named_with(flags.only, every)
    runs = {variant.name: Run(variant.change, train) for variant in chosen}
    ran: dict[str, list[Ran]] = {name: [] for name in runs}
    parameters = {name: run.parameters for name, run in runs.items()}
    for seed in range(seeds):
        for name, run in runs.items():
            ran[name].append(one(run, test, size, seed))
            shares = ", ".join(f"{n}: {share:.1%}" for n, share in ran[name][-1].right.items())
            tell(f"{name}, seed {seed}: keys found by segments {shares}")
            yield results(size, ran, parameters=parameters)


def one(run: Run, test: Passkey, size: Size, seed: int) -> Ran:
    """Trains and judges one side."""
    params, cpu = run.train(seed, size.stages)
    right = {
        n: run.right(params, segments=n, rows=size.rows, task=test, together=True)
        for n in size.segments
    }
    return Ran(right, cpu)


def results(
    size: Size, ran: Mapping[str, Sequence[Ran]], *, parameters: Mapping[str, int]
) -> list[Result]:
    """Everything that is told of the sides that ran."""
    found = []
    for name, runs in ran.items():
        if not runs:
            continue
        for segments in size.segments:
            shares = [100 * run.right[segments] for run in runs]
            what = f"{name}/keys found, {segments} segments"
            found.append(Result.mean(what, shares, "%", bar=BARS.get(name)))
        found += [
            Result.mean(f"{name}/CPU of training", [run.cpu for run in runs], "s"),
            Result(f"{name}/parameters", float(parameters[name]), ""),
        ]
    return found
