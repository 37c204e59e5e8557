"""`python -m benchmarks profile`: where our step spends its time, and how well.

XLA's CPU runtime writes down every operation that it runs; their times are added up by the module
that the operation came from, matrix products apart from the rest. The rate of products is compared
with the peak of the machine: what is below it is lost to shapes, what is no product to memory.
One core, so that times add up.
"""

from argparse import ArgumentParser, Namespace
from typing import Any

from benchmarks.peak import measure_peaks, peak_results
from benchmarks.peer.shape import Shape
from benchmarks.runner import Case, Plan, interleave, require_torch
from benchmarks.shapes import SMALL_GPT, SMOKE, TINY, our_config
from rtdlm.evaluation.results import Result

DESCRIPTION = "where our step spends its time, by module"
REPEATS = 3
FORMATS = ("float32", "bfloat16")


def add_flags(parser: ArgumentParser) -> None:
    """This benchmark takes none of its own."""


def measure(plan: Plan, flags: Namespace) -> list[Result]:
    """Milliseconds a step of every part."""
    require_torch()  # whose products are half of the peak
    size, tries = (64, 1) if plan.smoke else (2048, 10)
    formats = FORMATS[:1] if plan.smoke else FORMATS
    peaks = measure_peaks((1,), precisions=formats, size=size, repeats=tries)
    results = peak_results(peaks)
    for name, answers in interleave(_cases(smoke=plan.smoke), repeats=plan.repeats).items():
        parts = {part for answer in answers for part in answer["milliseconds"]}
        for part in sorted(parts):
            found = [answer["milliseconds"].get(part, 0.0) for answer in answers]
            results.append(Result.median(f"{name}/{part}", found, "ms"))
        rates = [answer["product_flops"] / 1e9 for answer in answers]
        results.append(Result.median(f"{name}/rate of all products", rates, "GFLOP/s"))
        peak = peaks[1, name.rpartition(", ")[2]]
        share = [100 * answer["product_flops"] / peak for answer in answers]
        results.append(Result.median(f"{name}/rate of all products, of peak", share, "%"))
    return results


def _cases(*, smoke: bool) -> dict[str, Case]:
    """The preset with its own optimizer in each format, and the small GPT as `step` times it."""

    def case(shape: Shape, batch: int, compute: str, **overrides: Any) -> Case:
        config = our_config(
            shape, batch_size=batch, num_steps=1000, precision={"compute": compute}, **overrides
        )
        return Case("benchmarks.sides.our_profile", {"config": config.to_dict()})

    if smoke:
        return {"tiny preset, float32": case(SMOKE, 2, "float32", optimizer={})}
    presets = {
        f"tiny preset, {compute}": case(TINY, 8, compute, optimizer={}) for compute in FORMATS
    }
    return {**presets, "small GPT, float32": case(SMALL_GPT, 12, "float32")}
