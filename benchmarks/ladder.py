"""`python -m benchmarks ladder`: a step that rows need a different number of times.

A step is a feed-forward layer of GELU with a residual. Every row's number of steps is known to the
program only as it runs, as a halted row would be; sides differ in how they use it:

    ideal      exactly the rows that need a step, sorted before and known while compiling
    fixed      all rows for all steps, whatever they need
    masked     all rows for all steps, those that need none keep their value
    loop       as masked, until no row needs a step
    ladder     `rtdlm.modules.controller.run_active`

One thread; ratios are of CPU seconds, which neighbours on a shared machine hardly change.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import Any

from benchmarks.child import Answer
from benchmarks.runner import Case, Plan, interleave, ratios, samples
from rtdlm.evaluation.results import Bar, Result

DESCRIPTION = "rows that need a different number of steps: a ladder of sizes against masking"
REPEATS = 5
KINDS = ("ideal", "fixed", "masked", "loop", "ladder")
NEEDS = ("geometric", "uniform", "alike")
SIZES = {"rows": 1024, "features": 256, "hidden": 1024, "steps": 8}
SMOKE_SIZES = {"rows": 16, "features": 4, "hidden": 8, "steps": 3}
LADDER_BAR: Bar = ("<=", 1.35)
MASKED_BAR: Bar = (">=", 0.95)
"""Masking that saved time would mean that the benchmark measures something else."""
EXACT: Bar = ("<=", 0.0)


def add_flags(parser: ArgumentParser) -> None:
    """Adds what only this benchmark takes."""
    parser.add_argument(
        "--seconds", type=float, default=2.0, metavar="S",
        help="timed in every child process, after its compilation (default: 2)",
    )  # fmt: skip


def measure(plan: Plan, flags: Namespace) -> list[Result]:
    """The results of all distributions of need."""
    seconds = 0.01 if plan.smoke else flags.seconds
    sizes = SMOKE_SIZES if plan.smoke else SIZES
    results: list[Result] = []
    for needs in NEEDS[:1] if plan.smoke else NEEDS:
        spec: dict[str, Any] = {**sizes, "needs": needs, "seconds": seconds}
        cases = {
            kind: Case("benchmarks.sides.our_ladder", {**spec, "kind": kind}) for kind in KINDS
        }
        answers = interleave(cases, repeats=plan.repeats)
        mean = answers["ladder"][0]["mean"]
        results += _results(f"{needs}, mean of {mean:.2f} steps of {sizes['steps']}", answers)
    return results


def _results(title: str, answers: dict[str, list[Answer]]) -> list[Result]:
    results = [
        Result.median(f"{title}, {label}/{kind}", samples(found, clock, scale=1e3), "ms")
        for clock, label in (("cpu", "CPU"), ("wall", "wall"))
        for kind, found in answers.items()
    ]
    bar = LADDER_BAR if title.startswith(NEEDS[0]) else None
    ladder, fixed = answers["ladder"], answers["fixed"]
    return [
        *results,
        _ratio(f"{title}, CPU/ladder over ideal", ladder, answers["ideal"], bar),
        _ratio(f"{title}, CPU/masked over fixed", answers["masked"], fixed, MASKED_BAR),
        _ratio(f"{title}, CPU/fixed over ladder", fixed, ladder, None),
        Result(
            f"{title}, CPU/ladder, largest error",
            max(samples(ladder, "apart")), "", bar=EXACT,
        ),
    ]  # fmt: skip


def _ratio(name: str, above: Sequence[Answer], below: Sequence[Answer], bar: Bar | None) -> Result:
    found = ratios(samples(above, "cpu"), samples(below, "cpu"))
    return Result.median(name, found, "x", bar=bar)
