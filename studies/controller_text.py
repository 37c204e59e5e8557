"""`python -m studies controller_text`: a controlled core on real text, loss against operations.

The small model of `kinds` with a core: two layers, then one that is run up to four times, as often
as the policy gives each token. Trained once, it is judged at several budgets, each met by a price
found on training text. Beside it stand models of two to six layers without a controller. All train
for the CPU time of the four-layer model, so that the core, whose training runs every step and has
four exits' logits, sees fewer rows.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from statistics import median
from typing import NamedTuple

import numpy as np

from benchmarks.child import Timer
from benchmarks.ours.characters import packed
from benchmarks.text import DEFAULT_TEXT, CharacterText, Windows, read_characters, windows
from rtdlm.config import AGIConfig
from rtdlm.data.batch import Batch
from rtdlm.evaluation import EvalStep, Pricing, evaluate, make_eval_step, with_price
from rtdlm.evaluation.results import Result
from rtdlm.models import TMSModel
from rtdlm.models.contracts import step_cost
from rtdlm.models.cost import forward_flops_per_token
from rtdlm.models.tms import Params, with_strategy
from rtdlm.parallel import make_mesh
from studies import kinds
from studies.recipe_side import Run, affordable, relative_costs
from studies.sides import add_only, chosen, each, whole_name
from studies.variants import Tree

DESCRIPTION = "a controlled core on real text at several budgets, beside models of fixed depth"
SEEDS = 3
BUDGETS = (25, 40, 55, 70, 85)
"""Means of the steps that may be taken [% of all]."""
FIXED = (2, 3, 4, 6)
BASE = 4
STEPS = 4
WHOLE = "whole"
"""The only point of a model without a core."""
LONGER = 6
"""Times the steps of `kinds`, for the base about one and a half passes over the text: after few
steps the cheapest model is ahead, and a core is the dearest to train."""
PRICING_ROWS, JUDGED_ROWS = 64, 64


class Point(NamedTuple):
    """A model as deployed."""

    loss: float
    """[nats a token]"""
    flops: float
    """[operations a token]"""
    steps: float
    """Of the core, a token; 0 without one."""


class Ran(NamedTuple):
    """One side with one seed."""

    points: Mapping[str, Point]
    cpu: float
    """Of training [seconds]."""
    trained: int
    """Steps."""


def add_flags(parser: ArgumentParser) -> None:
    """Adds what only this study takes."""
    add_only(parser)


def file_name(flags: Namespace) -> str | None:
    """Name of the result file; None for a part of the study."""
    return whole_name(flags, "controller_text")


def measure(flags: Namespace) -> Iterator[list[Result]]:
    """The results so far, after every side and seed.

    Raises:
        UserError: no side has the word in its name.
    """
    size = kinds.SIZES["smoke" if flags.smoke else "small"]
    sides = chosen(flags, trees(size.config), smoke=("controller",))
    steps = size.steps * (1 if flags.smoke else LONGER)
    bench = Bench(read_characters(DEFAULT_TEXT), size.config, steps=steps)
    one = lambda name, tree, seed: bench.run(tree, seed)  # noqa: E731
    for ran in each(sides, one, told, flags=flags, usual=SEEDS):
        yield results(ran)


def trees(base: Tree) -> dict[str, Tree]:
    """Every side by its name."""
    found: dict[str, Tree] = {f"{n} layers": {**base, "num_layers": n} for n in FIXED}
    core = {"use_compute_controller": True, "controller": {"max_steps": STEPS}}
    return found | {"controller": {**base, "num_layers": 3, **core}}


class Bench:
    """Trains sides on one text for the CPU time of the base, and judges them."""

    def __init__(self, text: CharacterText, base: Tree, *, steps: int) -> None:
        self._text, self._steps = text, steps
        self._base = Run(text, {**base, "num_layers": BASE})
        length = self._base.config.max_seq_len
        self._held_out = windows(text.held_out_N, length=length)
        self._coming = windows(text.train_N, length=length)

    def run(self, tree: Tree, seed: int) -> Ran:
        """One side with one seed."""
        run = Run(self._text, tree)
        cost = median(relative_costs(self._base, run))
        steps = affordable({0: cost}, self._steps)
        timer = Timer()
        state = run.advance(run.start(seed), np.random.default_rng(seed), range(steps), of=steps)
        seconds = timer.read().cpu
        judge = self._controlled if run.config.use_compute_controller else self._plain
        return Ran(judge(run.config, state.params, seed), seconds, steps)

    def _plain(self, config: AGIConfig, params: Params, seed: int) -> dict[str, Point]:
        del seed
        return {WHOLE: self._point(config, judge_of(TMSModel(config)), params)}

    def _controlled(self, config: AGIConfig, params: Params, seed: int) -> dict[str, Point]:
        fast = with_strategy(TMSModel(config), "fast")
        pricing, judge = Pricing(fast, mesh=make_mesh(config.mesh)), judge_of(fast)
        rows = np.random.default_rng(seed).permutation(len(self._coming.ids_BT))[:PRICING_ROWS]
        batches = [_batch(self._coming, rows)]
        points = {}
        for budget in BUDGETS:
            price = pricing.price_for(params, batches, budget=budget / 100).price
            own = with_price(params, "fast", price)
            points[f"{budget} % of steps"] = self._point(config, judge, own)
        thorough = judge_of(with_strategy(TMSModel(config), "thorough"))
        return points | {"all steps": self._point(config, thorough, params)}

    def _point(self, config: AGIConfig, judge: EvalStep, params: Params) -> Point:
        rows, length = self._held_out.ids_BT.shape
        parts = range(0, rows, JUDGED_ROWS)
        batches = (_batch(self._held_out, np.arange(at, at + JUDGED_ROWS)) for at in parts)
        found = evaluate(judge, params, batches)
        steps = 0.0 if found.steps is None else found.steps
        return Point(found.loss, flops(config, steps, length=length), steps)


def judge_of(model: TMSModel) -> EvalStep:
    """What measures a model, compiled once."""
    return make_eval_step(model, make_mesh(model.config.mesh))


def _batch(source: Windows, rows: np.ndarray) -> Batch:
    """Some windows; rows beyond the last do not count."""
    count = len(source.ids_BT)
    ids_BT, labels_BT = (array[rows % count] for array in source)
    return packed(ids_BT, labels_BT, rows < count)


def flops(config: AGIConfig, steps: float, *, length: int) -> float:
    """Operations a token, with so many steps of the core on average."""
    whole = forward_flops_per_token(config, length=length)
    if not config.use_compute_controller:
        return float(whole)
    return whole - (config.controller.steps - steps) * step_cost(config)


def told(ran: Ran) -> str:
    """What to print of a side and seed."""
    return ", ".join(f"{name}: {point.loss:.3f}" for name, point in ran.points.items())


def results(ran: Mapping[str, Sequence[Ran]]) -> list[Result]:
    """Everything that is told of the sides that ran."""
    found = []
    for name, own in ran.items():
        for place in own[0].points:
            points = [one.points[place] for one in own]
            row = partial("{}/{}".format, name if place == WHOLE else f"{name}, {place}")
            found += [
                Result.mean(row("loss"), [point.loss for point in points], "nats"),
                Result.mean(row("operations"), [point.flops / 1e6 for point in points], "MFLOP"),
            ]
            if points[0].steps:
                found.append(Result.mean(row("steps"), [point.steps for point in points], ""))
        found += [
            Result.mean(f"{name}/CPU of training", [one.cpu for one in own], "s"),
            Result.mean(f"{name}/steps of training", [float(one.trained) for one in own], ""),
        ]
    return found
