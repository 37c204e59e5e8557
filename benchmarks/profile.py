"""`python -m benchmarks profile`: where the tiny preset's step spends its time, and how well.

XLA's CPU runtime writes down every operation that it runs; their times are added up by the module
that the operation came from, matrix products apart from the rest. The rate of products is compared
with the peak of the machine: what is below it is lost to shapes, what is no product to memory.
One core, so that times add up.
"""

from argparse import ArgumentParser, Namespace

from benchmarks.peak import measure_peaks, peak_results
from benchmarks.runner import Case, Plan, interleave, require_torch
from benchmarks.shapes import SMOKE, TINY, our_config
from rtdlm.evaluation.results import Result

DESCRIPTION = "where our step spends its time, by module"
REPEATS = 3
BATCH = 8


def add_flags(parser: ArgumentParser) -> None:
    """This benchmark takes none of its own."""


def measure(plan: Plan, flags: Namespace) -> list[Result]:
    """Milliseconds a step of every part, in both formats."""
    require_torch()  # whose products are half of the peak
    formats = ("float32",) if plan.smoke else ("float32", "bfloat16")
    size, tries = (64, 1) if plan.smoke else (2048, 10)
    peaks = measure_peaks((1,), precisions=formats, size=size, repeats=tries)
    results = peak_results(peaks)
    shape = SMOKE if plan.smoke else TINY
    cases = {}
    for compute in formats:
        config = our_config(
            shape, batch_size=BATCH, num_steps=1000, precision={"compute": compute}, optimizer={}
        )
        cases[compute] = Case("benchmarks.sides.our_profile", {"config": config.to_dict()})
    for compute, answers in interleave(cases, repeats=plan.repeats).items():
        parts = {part for answer in answers for part in answer["milliseconds"]}
        for part in sorted(parts):
            found = [answer["milliseconds"].get(part, 0.0) for answer in answers]
            results.append(Result.median(f"{compute}/{part}", found, "ms"))
        rates = [answer["product_flops"] / 1e9 for answer in answers]
        results.append(Result.median(f"{compute}/rate of all products", rates, "GFLOP/s"))
        share = [100 * answer["product_flops"] / peaks[1, compute] for answer in answers]
        results.append(Result.median(f"{compute}/rate of all products, of peak", share, "%"))
    return results
