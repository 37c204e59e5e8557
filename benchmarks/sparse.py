"""`python -m benchmarks sparse`: experts and mixture of depths against computing everything.

Experts: one layer forward and backward, 8 experts of which a token uses 2, against all 8 computed
for every token (three wide products) and weighed by the same router. Depths: a training step of the
tiny preset's model with every second block on an eighth of the tokens, against the dense step; and
of the same model three times as deep, since by its operations a quarter of the preset's step is its
two tables, which no block saves.

Ratios on one core are of CPU seconds, which neighbours on a shared machine hardly change.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from benchmarks.child import Answer
from benchmarks.runner import Case, Plan, interleave, ratios, samples, threads_named
from benchmarks.shapes import SMOKE, TINY, our_config
from rtdlm.config.errors import UserError
from rtdlm.evaluation.results import Bar, Result

DESCRIPTION = "sparse experts and mixture of depths against the same model computing everything"
REPEATS = 3
KINDS = ("all", "capacity", "dropless")
SIZES = {"experts": 8, "top_k": 2, "d_model": 256, "batch": 8, "length": 256}
SMOKE_SIZES = {"experts": 4, "top_k": 1, "d_model": 16, "batch": 2, "length": 16}
HIDDEN, SMOKE_HIDDEN = (512, 1024), (32,)
LAYERS, SMOKE_LAYERS = (4, 12), (2,)
FORMATS = ("float32", "bfloat16")
DEEP = {"depths": {"capacity": 0.125, "every": 2}}
EXPERTS_BAR: Bar = ("<=", 0.45)
DEPTHS_BAR: Bar = ("<=", 0.75)


def add_flags(parser: ArgumentParser) -> None:
    """Adds what only this benchmark takes."""
    parser.add_argument(
        "--seconds", type=float, default=3.0, metavar="S",
        help="timed in every child process, after its compilation (default: 3)",
    )  # fmt: skip
    parser.add_argument(
        "--only", default="", metavar="TEXT",
        help="cases with this in their name, such as 'experts 1024' or bfloat16 (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--add", action="store_true",
        help="keep rows of the result file that are not measured now; same machine and versions",
    )  # fmt: skip


def measure(plan: Plan, flags: Namespace) -> list[Result]:
    """The results of both on all numbers of threads."""
    seconds = 0.01 if plan.smoke else flags.seconds
    results: list[Result] = []
    for threads in plan.threads:
        for precision in FORMATS[:1] if plan.smoke else FORMATS:
            for hidden in SMOKE_HIDDEN if plan.smoke else HIDDEN:
                title = f"experts {hidden} wide, {precision}, {threads_named(threads)}"
                sizes = SMOKE_SIZES if plan.smoke else SIZES
                spec = {**sizes, "d_ff": hidden, "precision": precision, "seconds": seconds}
                if flags.only in title:
                    results += _experts(title, spec, threads, plan)
            for layers in SMOKE_LAYERS if plan.smoke else LAYERS:
                title = f"depths, {layers} layers, {precision}, {threads_named(threads)}"
                if flags.only in title:
                    results += _depths(title, layers, precision, threads, plan, seconds=seconds)
    if not results:
        raise UserError(
            f"no case has {flags.only!r} in its name; they begin with 'experts' or 'depths' and "
            "end with their format and threads"
        )
    return results


def _experts(title: str, spec: Mapping[str, Any], threads: int, plan: Plan) -> list[Result]:
    side = "benchmarks.sides.our_experts"
    cases = {f"{title}/{kind}": Case(side, {**spec, "kind": kind}, threads) for kind in KINDS}
    answers = interleave(cases, repeats=plan.repeats)
    results = _times(answers)
    for kind in KINDS[1:]:
        sides = (answers[f"{title}/{kind}"], answers[f"{title}/all"])
        results.append(_ratio(f"{title}/{kind} over all", *sides, threads, EXPERTS_BAR))
    # A loop over tiles counts once for the compiler: see the tests for its operations.
    flops = [samples(answers[f"{title}/{kind}"], "flops") for kind in ("capacity", "all")]
    shares = ratios(*flops)
    return [*results, Result.median(f"{title}/capacity over all, operations", shares, "x")]


def _depths(
    title: str, layers: int, precision: str, threads: int, plan: Plan, *, seconds: float
) -> list[Result]:
    shape = replace(SMOKE if plan.smoke else TINY, num_layers=layers)

    def step(form: Mapping[str, Any]) -> Case:
        config = our_config(
            shape, batch_size=8, num_steps=1000,
            precision={"compute": precision}, **form,
        )  # fmt: skip
        spec = {"config": config.to_dict(), "seconds": seconds}
        return Case("benchmarks.sides.our_step", spec, threads)

    cases = {f"{title}/dense": step({}), f"{title}/deep": step(DEEP)}
    answers = interleave(cases, repeats=plan.repeats)
    sides = (answers[f"{title}/deep"], answers[f"{title}/dense"])
    return [*_times(answers), _ratio(f"{title}/deep over dense", *sides, threads, DEPTHS_BAR)]


def _times(answers: Mapping[str, Sequence[Answer]]) -> list[Result]:
    return [
        Result.median(f"{name}/{label}", samples(found, clock, scale=1e3), "ms")
        for name, found in answers.items()
        for clock, label in (("wall", "wall"), ("cpu", "CPU"))
    ]


def _ratio(
    name: str, above: Sequence[Answer], below: Sequence[Answer], threads: int, bar: Bar
) -> Result:
    clock, unit = ("cpu", "CPU") if threads == 1 else ("wall", "wall")
    found = ratios(samples(above, clock), samples(below, clock))
    return Result.median(f"{name}, {unit}", found, "x", bar=bar)
