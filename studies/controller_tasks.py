"""`python -m studies controller`: does a controller spend steps where they are needed?

Two tasks whose examples need different numbers of steps of one core (`studies.controller_hops`,
`studies.controller_addition`). A controller that is trained on prices of all sizes decides at each
step whether to take another; one number, the price, then sets how much is spent.

    all steps       every row takes all of them
    loose           the price with the least cost that loses at most half a point, on other rows
    budget b %      the price at which the mean cost is just within b % of that of all steps
    fixed           the same core at one depth for all, at equal mean cost: a mix of two depths
    trained         nets trained for these depths and no other, at the binding budget
    random          the controller's exits dealt out anew among the rows

Costs are floating-point operations as the compiler counts them, of everything: beginning, steps,
what the controller itself needs, and reading.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from rtdlm.evaluation.results import Result
from studies.controlled import Task
from studies.controlled_trainer import Size, Trainer
from studies.controller_addition import ADDITION_TASK
from studies.controller_hops import HOPS_TASK
from studies.controller_judge import Judge, Ran
from studies.controller_results import BINDING, results
from studies.sides import add_only, chosen, each, whole_name

DESCRIPTION = "compute by difficulty: exits, budgets and confidence on two tasks"
SEEDS = 3


class Setting(NamedTuple):
    """A task and how it is studied."""

    task: Task
    size: Size


SIZE = Size(
    steps=2000, batch=64, gate_steps=4000, gate_batch=512, pool=16384, rates=(0.003, 0.01),
    gate_rate=0.003,
)  # fmt: skip
SMALL = Size(
    steps=2, batch=32, gate_steps=2, gate_batch=16, pool=64, rates=(0.003,), gate_rate=0.003
)
ROWS = 16384
"""Of calibration and of the test."""
BUDGETS: Sequence[int] = (20, 25, 30, 35, 40, 50, 100)
"""[% of all steps' operations]"""
SETTINGS: Mapping[str, Setting] = {
    "hops": Setting(HOPS_TASK, SIZE._replace(batch=128)),
    "addition": Setting(ADDITION_TASK, SIZE),
}


def add_flags(parser: ArgumentParser) -> None:
    """Adds what only this study takes."""
    add_only(parser)


def file_name(flags: Namespace) -> str | None:
    """Name of the result file; None for a part of the study."""
    return whole_name(flags, "controller")


def measure(flags: Namespace) -> Iterator[list[Result]]:
    """The results so far, after every task and seed.

    Raises:
        UserError: no task has the word in its name.
    """
    found = chosen(flags, SETTINGS, smoke=("addition",))
    judges = {name: _judge(setting, smoke=flags.smoke) for name, setting in found.items()}
    one = lambda name, judge, seed: judge(seed)  # noqa: E731
    for ran in each(judges, one, told, flags=flags, usual=SEEDS):
        yield [result for name, own in ran.items() for result in results(name, own)]


def _judge(setting: Setting, *, smoke: bool) -> Judge:
    trainer = Trainer(setting.task, SMALL if smoke else setting.size)
    rows = 64 if smoke else ROWS
    budgets = (BINDING, 100) if smoke else BUDGETS
    return Judge(setting.task, trainer, rows=rows, budgets=budgets, binding=BINDING)


def told(ran: Ran) -> str:
    """One task with one seed, in a line."""
    budgets = ", ".join(f"{b} %: {one.right:.1%}" for b, one in ran.budgets.items())
    loose = f"{ran.loose.right:.1%} for {ran.loose.cost:.1%}, rank {ran.loose.rank:.2f}"
    return f"all steps {ran.thorough:.1%}, loose {loose}; {budgets}; trained {ran.trained:.1%}"
