"""What studies of memory share: sides of equal size, each trained and judged with every seed."""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, TypeVar

from benchmarks.runner import tell
from rtdlm.evaluation.results import Result
from rtdlm.parallel import keep_compiled_programs
from rtdlm.training.allocator import keep_freed_memory
from studies.memory_side import Run, matched, with_memory
from studies.memory_tasks import Task
from studies.recipe import named_with
from studies.variants import Tree, Variant


class Ran(Protocol):
    """One side with one seed."""

    @property
    def cpu(self) -> float:
        """Of training alone [seconds]."""


AnyRan = TypeVar("AnyRan", bound=Ran)


def add_only(parser: ArgumentParser) -> None:
    """Adds the flag that chooses sides."""
    parser.add_argument(
        "--only", default="", metavar="WORD", help="sides with this in their name",
    )  # fmt: skip


def whole_name(flags: Namespace, name: str) -> str | None:
    """`name`, of the result file; None for a part of the study."""
    return None if flags.smoke or flags.only else name


def seeds_of(flags: Namespace, usual: int) -> int:
    """Runs of each side."""
    return int(flags.seeds or (1 if flags.smoke else usual))


def equal_sides(base: Tree, tiers: Mapping[str, Sequence[Tree]], task: Task) -> dict[str, Tree]:
    """`base` with each side's tiers, all of the same number of parameters."""
    return matched({name: with_memory(base, *own) for name, own in tiers.items()}, task)


def runs_of(
    flags: Namespace, sides: Mapping[str, Tree], task: Task, *, smoke: Sequence[str]
) -> dict[str, Run]:
    """The sides that the user chose; of a smoke run, unless he did, those named `smoke`.

    Raises:
        UserError: no side has the word in its name.
    """
    every = [Variant(name, tree) for name, tree in sides.items()]
    if flags.smoke and not flags.only:
        every = [variant for variant in every if variant.name in smoke]
    return {found.name: Run(found.change, task) for found in named_with(flags.only, every)}


def each(
    runs: Mapping[str, Run],
    one: Callable[[str, Run, int], AnyRan],
    told: Callable[[AnyRan], str],
    *,
    seeds: int,
) -> Iterator[dict[str, list[AnyRan]]]:
    """All that ran so far, after every side and seed.

    Args:
        runs: by the side's name.
        one: trains and judges a side, given its name and a seed.
        told: what to print of it.
        seeds: how many.
    """
    keep_freed_memory()
    keep_compiled_programs()
    ran: dict[str, list[AnyRan]] = {name: [] for name in runs}
    for seed in range(seeds):
        for name, run in runs.items():
            ran[name].append(one(name, run, seed))
            tell(f"{name}, seed {seed}: {told(ran[name][-1])}")
            yield {name: done for name, done in ran.items() if done}


def shares_told(right: Mapping[int, float]) -> str:
    """Shares by segments, for `each` to print."""
    return ", ".join(f"{segments}: {share:.1%}" for segments, share in right.items())


def costs(name: str, ran: Sequence[Ran], run: Run) -> list[Result]:
    """What a side took."""
    return [
        Result.mean(f"{name}/CPU of training", [found.cpu for found in ran], "s"),
        Result(f"{name}/parameters", float(run.parameters), ""),
    ]
