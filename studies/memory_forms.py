"""`python -m studies memory_forms`: ways in which tiers of memory are joined, written and kept.

Beside the plain form of each, on the tasks of `memory_recall` and `memory_rule` and trained as
there: how two tiers become one; what is written to a store too small for the row, where all that is
no pair is noise of 32 tokens that are met again and again; whether what is read often is told to
the recurrent matrix once more; and a bank of trained entries among which the task's memory chooses.
Sides of a task have equal parameters.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from rtdlm.evaluation.results import Result
from studies import memory_recall, memory_rule, memory_study
from studies import memory_side as side
from studies.memory_side import Run
from studies.sides import add_only, chosen, each, shares_told, whole_name
from studies.variants import Tree

DESCRIPTION = "fusion of tiers, what a small store is told, consolidation, a bank of tasks"
SEEDS = 3

STORE: Tree = {"episodic_slots": 64, "episodic_top_k": 8}
"""One segment of 64 tokens, or the newest 16 of each of four."""
NOVEL: Tree = {"episodic_write": "novel", "episodic_rows": 16}
BOTH = (side.RECURRENT, side.EPISODIC)

RECALL: Mapping[str, Sequence[Tree]] = {
    "both, gated": BOTH,
    "both, cross": (*BOTH, {"fusion": "cross"}),
    "both, hierarchical": (*BOTH, {"fusion": "hierarchical"}),
    "store of 64, all, age": (STORE,),
    "store of 64, novel, age": (STORE, NOVEL),
    "store of 64, novel, surprise": (STORE, NOVEL, {"forget": "surprise"}),
    "store of 64, novel, adaptive": (STORE, NOVEL, {"forget": "adaptive"}),
    "matrix and store of 64": (side.RECURRENT, STORE),
    "matrix and store of 64, consolidated": (side.RECURRENT, STORE, {"consolidate": 8}),
}
RULE: Mapping[str, Sequence[Tree]] = {
    "task tokens": (side.TASK,),
    "task tokens and 8 slots": (side.TASK, {"task_slots": 8}),
}


class Ran(NamedTuple):
    """One side with one seed."""

    right: Mapping[int, float]
    """Share of right answers, by segments of a row or segments later."""
    cpu: float
    """Of training alone [seconds]."""


def add_flags(parser: ArgumentParser) -> None:
    """Adds what only this study takes."""
    add_only(parser)


def file_name(flags: Namespace) -> str | None:
    """Name of the result file; None for a part of the study."""
    return whole_name(flags, "memory_forms")


def measure(flags: Namespace) -> Iterator[list[Result]]:
    """The results so far, after every side and seed.

    Raises:
        UserError: no side has the word in its name.
    """
    recall = memory_recall.SMOKE if flags.smoke else memory_recall.WHOLE
    rule = memory_rule.SMOKE if flags.smoke else memory_rule.WHOLE
    trees = memory_study.equal_sides(recall.base, RECALL, recall.task)
    runs = {name: Run(tree, recall.task) for name, tree in trees.items()}
    trees = memory_study.equal_sides(rule.base, RULE, rule.task)
    runs |= {name: Run(tree, rule.task) for name, tree in trees.items()}
    runs = chosen(flags, runs, smoke=("store of 64, novel, surprise", *RULE))
    judge = memory_rule.Judge(rule)

    def one(name: str, run: Run, seed: int) -> Ran:
        if name in RULE:
            of_rule = judge(name, run, seed)
            return Ran(of_rule.right, of_rule.cpu)
        of_recall = memory_recall.judged(recall, name, run, seed)
        return Ran(of_recall.right, of_recall.cpu)

    for ran in each(runs, one, lambda ran: shares_told(ran.right), flags=flags, usual=SEEDS):
        yield results(ran, runs)


def results(ran: Mapping[str, Sequence[Ran]], runs: Mapping[str, Run]) -> list[Result]:
    """Everything that is told of the sides that ran."""
    found = []
    for name, own in ran.items():
        task, unit = ("rule", "segments later") if name in RULE else ("pairs", "segments")
        for count in own[0].right:
            shares = [100 * one.right[count] for one in own]
            found.append(Result.mean(f"{name}/{task} right, {count} {unit}", shares, "%"))
        found += memory_study.costs(name, own, runs[name])
    return found
