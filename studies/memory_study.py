"""What studies of memory share: sides of equal size, and what each of them took."""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Protocol

from rtdlm.evaluation.results import Result
from studies import sides
from studies.memory_side import Run, matched, with_memory
from studies.memory_tasks import Task
from studies.variants import Tree


class Ran(Protocol):
    """One side with one seed."""

    @property
    def cpu(self) -> float:
        """Of training alone [seconds]."""


def equal_sides(base: Tree, tiers: Mapping[str, Sequence[Tree]], task: Task) -> dict[str, Tree]:
    """`base` with each side's tiers, all of the same number of parameters."""
    return matched({name: with_memory(base, *own) for name, own in tiers.items()}, task)


def runs_of(
    flags: Namespace,
    trees: Mapping[str, Tree],
    task: Task,
    *,
    smoke: Sequence[str],
    plain: str | None = None,
) -> dict[str, Run]:
    """The sides that `sides.chosen` finds, ready to be trained.

    With `plain`, a side's name, all begin with the first weights of that one.
    """
    found = sides.chosen(flags, trees, smoke=smoke)
    start = None if plain is None else trees[plain]
    return {name: Run(tree, task, plain=start) for name, tree in found.items()}


def costs(name: str, ran: Sequence[Ran], run: Run) -> list[Result]:
    """What a side took."""
    return [
        Result.mean(f"{name}/CPU of training", [found.cpu for found in ran], "s"),
        Result(f"{name}/parameters", float(run.parameters), ""),
    ]
