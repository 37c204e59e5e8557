"""`python -m studies memory_rule`: which of several hidden rules a row began with.

Three examples in the first segment tell which of four hidden maps a row has; up to 64 segments
later it is asked for the images of other inputs (`studies.memory_tasks.Rule`). A side is a tier of
memory. Then the test that tells the task's own memory (MTM) from the others: the examples stand in
one session, all queries in the next, and between the two what was seen (STM) and what was learned
of this session (LTM) is cleared. The control clears MTM too.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from benchmarks.runner import tell
from rtdlm.evaluation.results import Bar, Result
from rtdlm.parallel import keep_compiled_programs
from rtdlm.training.allocator import keep_freed_memory
from studies import memory_side as side
from studies.memory_side import Run, Stage
from studies.memory_tasks import Rule
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
    rows=64,
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
    """This study takes none of its own."""


def file_name(flags: Namespace) -> str | None:
    """Name of the result file."""
    return None if flags.smoke else "memory_rule"


def sides(size: Size) -> dict[str, Tree]:
    """Each side's configuration, all of the same number of parameters."""
    every = {name: side.with_memory(size.base, *tiers) for name, tiers in TIERS.items()}
    return side.matched(every, size.task)


def measure(flags: Namespace) -> Iterator[list[Result]]:
    """The results so far, after every side and seed."""
    keep_freed_memory()
    keep_compiled_programs()
    size = SMOKE if flags.smoke else WHOLE
    seeds = flags.seeds or (1 if flags.smoke else SEEDS)
    trees = sides(size)
    runs = {name: Run(tree, size.task) for name, tree in trees.items()}
    apart = Run(trees["all"], two_sessions(size), cleared=CLEARED)
    ran: dict[str, list[Ran]] = {name: [] for name in (*runs, *SESSIONS)}
    parameters = {name: run.parameters for name, run in runs.items()}
    for seed in range(seeds):
        for name, run in runs.items():
            ran[name].append(one(run, size, seed))
            _tell(name, seed, ran[name][-1])
            yield results(size, ran, parameters=parameters)
        for name, found in in_sessions(apart, size, seed).items():
            ran[name].append(found)
            _tell(name, seed, found)
        yield results(size, ran, parameters=parameters)


def two_sessions(size: Size) -> Rule:
    """The task with its examples in one session and the test's queries in the next."""
    return size.task._replace(sessions=2)


def one(run: Run, size: Size, seed: int) -> Ran:
    """Trains and judges one side."""
    params, cpu = run.train(seed, size.stages)
    right = {n: run.right(params, segments=n + 1, rows=size.rows) for n in size.later}
    return Ran(right, cpu)


def in_sessions(run: Run, size: Size, seed: int) -> dict[str, Ran]:
    """Trains on two sessions and judges with each choice of what is cleared between them."""
    params, cpu = run.train(seed, size.session_stages)
    found = {}
    for name, cleared in SESSIONS.items():
        right = {
            n: run.right(params, segments=n, rows=size.rows, cleared=cleared)
            for n in size.session_segments
        }
        found[name] = Ran(right, cpu)
    return found


def bar(name: str, later: int, size: Size) -> Bar | None:
    """What a side has to reach so many segments later, or in sessions of so many."""
    if name == "STM" and later <= size.base["num_layers"]:
        return None  # a segment a layer is within reach
    if name in ("none", "STM") or name.startswith("control"):
        return ("<=", 100 * (size.task.chance + 0.05))
    return None if name == "nothing cleared" else (">=", 95.0)


def results(
    size: Size, ran: Mapping[str, Sequence[Ran]], *, parameters: Mapping[str, int]
) -> list[Result]:
    """Everything that is told of the sides that ran."""
    found = []
    for name, runs in ran.items():
        if not runs:
            continue
        session = name in SESSIONS
        for place in size.session_segments if session else size.later:
            what = f"two sessions of {place} segments" if session else f"{place} segments later"
            shares = [100 * run.right[place] for run in runs]
            what = f"{name}/right, {what}"
            found.append(Result.mean(what, shares, "%", bar=bar(name, place, size)))
        if not session:
            cpu = [run.cpu for run in runs]
            found += [
                Result.mean(f"{name}/CPU of training", cpu, "s"),
                Result(f"{name}/parameters", float(parameters[name]), ""),
            ]
    return [*found, Result("guessing/right", 100 * size.task.chance, "%")]


def _tell(name: str, seed: int, ran: Ran) -> None:
    shares = ", ".join(f"{n}: {share:.1%}" for n, share in ran.right.items())
    tell(f"{name}, seed {seed}: right by segments {shares}")
