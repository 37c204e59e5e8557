"""`python -m benchmarks core`: a model with a compute controller under its strategies.

The `tiny` preset whose last three layers are a core of six steps, on one batch, forward: `fast`,
`balanced` and `thorough` with the same parameters, and the preset itself. The policy has random
weights that listen to the price, so that tokens stop all over the place; prices are those at which
strategies keep to their budgets on this batch. Operations are the compiler's count of a step, times
the share of tiles that were run.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from benchmarks.child import Answer
from benchmarks.runner import Case, Plan, interleave, ratios, samples
from rtdlm.evaluation.results import Bar, Result

DESCRIPTION = "a controlled core: fast and balanced against all steps, in time and operations"
REPEATS = 5
KINDS = ("fast", "balanced", "thorough", "plain")
SIZES = {"preset": "tiny", "core_layers": 3, "max_steps": 6, "overrides": {}}
SMOKE = {
    "d_model": 16, "num_heads": 2, "num_kv_heads": 1, "d_ff": 32, "vocab_size": 64,
    "max_seq_len": 16, "batch_size": 2, "num_layers": 2,
}  # fmt: skip
SMOKE_SIZES = {"preset": "tiny", "core_layers": 1, "max_steps": 3, "overrides": SMOKE}
FAST_BAR: Bar = ("<=", 0.5)


def add_flags(parser: ArgumentParser) -> None:
    """Adds what only this benchmark takes."""
    parser.add_argument(
        "--seconds", type=float, default=3.0, metavar="S",
        help="timed in every child process, after its compilation (default: 3)",
    )  # fmt: skip


def measure(plan: Plan, flags: Namespace) -> list[Result]:
    """The results of all strategies."""
    spec = {
        **(SMOKE_SIZES if plan.smoke else SIZES),
        "seconds": 0.01 if plan.smoke else flags.seconds,
    }
    cases = {kind: Case("benchmarks.sides.our_core", {**spec, "kind": kind}) for kind in KINDS}
    answers = interleave(cases, repeats=plan.repeats)
    results = []
    for kind, found in answers.items():
        results += [
            Result.median(f"{kind}/CPU", samples(found, "cpu", scale=1e3), "ms"),
            Result.median(f"{kind}/wall", samples(found, "wall", scale=1e3), "ms"),
            Result.median(f"{kind}/operations", samples(found, "flops", scale=1e-9), "GFLOP"),
            Result.median(f"{kind}/steps a token", samples(found, "steps"), ""),
        ]
    for kind, bar in (("fast", FAST_BAR), ("balanced", None)):
        for what, name in (("cpu", "CPU"), ("wall", "wall"), ("flops", "operations")):
            own = bar if what != "wall" else None
            results.append(_ratio(f"{kind}/{name} over thorough", answers, kind, what, own))
    return results


def _ratio(
    name: str, answers: dict[str, list[Answer]], kind: str, what: str, bar: Bar | None
) -> Result:
    sides: list[Sequence[float]] = [samples(answers[one], what) for one in (kind, "thorough")]
    return Result.median(name, ratios(*sides), "x", bar=bar)
