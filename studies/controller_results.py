"""What `python -m studies controller` tells of its tasks, and what has to hold.

Bars are on the worst seed. Beside every budget stand the same core at one depth for all and the
same exits dealt out anew, both at equal mean cost.
"""

from collections.abc import Callable, Iterator, Sequence

from rtdlm.evaluation.results import Bar, Result
from studies.controller_judge import Ran
from studies.controller_table import Judged

BINDING = 40
"""The budget that is judged beside nets trained for its depth [% of all steps' operations]."""


def results(task: str, own: Sequence[Ran]) -> list[Result]:
    """Everything that is told of one task."""
    return [*_sides(task, own), *_bars(task, own), *_budgets(task, own), *_runs(task, own)]


def _sides(task: str, own: Sequence[Ran]) -> Iterator[Result]:
    """Right answers and cost, side by side."""

    def row(name: str, right: Callable[[Ran], float], cost: Callable[[Ran], float]) -> list[Result]:
        place = f"sides/{task}, {name}"
        return [
            Result.mean(f"{place}/right", [100 * right(ran) for ran in own], "%"),
            Result.mean(f"{place}/cost", [100 * cost(ran) for ran in own], "% of all steps"),
        ]

    def at(name: str, judged: Callable[[Ran], Judged]) -> list[Result]:
        cost = lambda ran: judged(ran).cost  # noqa: E731
        return [
            *row(f"{name}: controller", lambda ran: judged(ran).right, cost),
            *row(f"{name}: one depth for all", lambda ran: judged(ran).fixed, cost),
            *row(f"{name}: random exits", lambda ran: judged(ran).random, cost),
        ]

    yield from row("all steps", lambda ran: ran.thorough, lambda ran: 1.0)
    yield from at("loose", lambda ran: ran.loose)
    tight = f"budget {BINDING} %"
    yield from at(tight, lambda ran: ran.budgets[BINDING])
    name = f"{tight}: trained for that depth"
    yield from row(name, lambda ran: ran.trained, lambda ran: ran.budgets[BINDING].cost)


def _bars(task: str, own: Sequence[Ran]) -> list[Result]:
    """What has to hold, of the worst seed."""
    loose = [ran.loose for ran in own]
    tight = [ran.budgets[BINDING] for ran in own]
    every = [(budget / 100, one) for ran in own for budget, one in ran.budgets.items()]
    bound = [one.cost / budget for budget, one in every if one.binding]

    def worst(name: str, values: Sequence[float], unit: str, bar: Bar) -> Result:
        value = min(values) if bar[0] == ">=" else max(values)
        return Result(f"bars/{task}/{name}", value, unit, bar=bar)

    return [
        worst("rank correlation of exit and difficulty", [o.rank for o in loose], "", (">=", 0.7)),
        worst(
            "loose: lost to all steps",
            [100 * (ran.thorough - ran.loose.right) for ran in own], "points", ("<=", 1.0),
        ),
        worst("loose: cost", [100 * o.cost for o in loose], "% of all steps", ("<=", 45.0)),
        worst(
            "binding: above one depth for all",
            [100 * (o.right - o.fixed) for o in tight], "points", (">=", 15.0),
        ),
        worst(
            "binding: above nets trained for that depth",
            [100 * (o.right - ran.trained) for o, ran in zip(tight, own, strict=True)],
            "points", (">=", 0.0),
        ),
        *(
            worst(
                f"{name}: worst seed above the best of {other}",
                [100 * (min(o.right for o in ones) - max(getattr(o, field) for o in ones))],
                "points", (">=", 0.0),
            )
            for name, ones in (("loose", loose), ("binding", tight))
            for other, field in (("random exits", "random"), ("one depth", "fixed"))
        ),
        worst(
            "largest cost over its budget", [o.cost / budget for budget, o in every], "x",
            ("<=", 1.02),
        ),
        worst("smallest cost over a binding budget", bound or [1.0], "x", (">=", 0.88)),
        worst(
            "most that a larger budget loses", [_fall(ran) for ran in own], "points", ("<=", 3.0)
        ),
        worst(
            "error of calibrated confidence",
            [o.calibrated for ran in own for o in (ran.loose, *ran.budgets.values())], "",
            ("<=", 0.05),
        ),
        Result(
            f"bars/{task}/error of confidence as it is",
            max(o.raw for ran in own for o in (ran.loose, *ran.budgets.values())), "",
        ),
    ]  # fmt: skip


def _fall(ran: Ran) -> float:
    """The most right answers that any larger budget has fewer than a smaller [points]."""
    right = [ran.budgets[budget].right for budget in sorted(ran.budgets)]
    return 100 * max(max(right[:i]) - right[i] for i in range(1, len(right)))


def _budgets(task: str, own: Sequence[Ran]) -> Iterator[Result]:
    """Right answers and cost by budget."""
    for budget in own[0].budgets:
        place = f"budgets/{task}, {budget} %"
        ones = [ran.budgets[budget] for ran in own]
        yield Result.mean(f"{place}/controller", [100 * one.right for one in ones], "%")
        yield Result.mean(f"{place}/one depth for all", [100 * one.fixed for one in ones], "%")
        yield Result.mean(f"{place}/random exits", [100 * one.random for one in ones], "%")
        yield Result.mean(f"{place}/cost", [100 * one.cost for one in ones], "% of all steps")
        yield Result.mean(f"{place}/rank correlation", [one.rank for one in ones], "")


def _runs(task: str, own: Sequence[Ran]) -> list[Result]:
    """How it ran."""
    place = f"runs/{task}"
    costs = own[0].costs
    return [
        Result(f"{place}/rows with the exit of a full run", 100 * min(r.same for r in own), "%"),
        Result(f"{place}/largest difference of their scores", max(r.apart for r in own), ""),
        Result.mean(f"{place}/wall time of all steps over deployed", [r.faster for r in own], "x"),
        Result(f"{place}/operations of a step", costs.step, ""),
        Result(f"{place}/of a gate", costs.gate / costs.step, "steps"),
        Result(
            f"{place}/of beginning and reading", (costs.begin + costs.read) / costs.step, "steps"
        ),
        Result.mean(f"{place}/CPU of training and compiling", [r.cpu for r in own], "s"),
        Result(f"{place}/parameters", float(own[0].parameters), ""),
    ]
