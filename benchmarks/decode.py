"""`python -m benchmarks decode`: tokens/s of generation after a prompt, the prompt included.

The standard loop of PyTorch repositories reads the whole text again for every token; it is what the
bar is against. A loop with a cache, which such a repository could have, is shown beside it.
"""

from argparse import ArgumentParser, Namespace
from dataclasses import asdict

from benchmarks.runner import Case, Plan, interleave, ratios, require_torch, samples, threads_named
from benchmarks.shapes import SMOKE, TINY, our_config
from rtdlm.evaluation.results import Bar, Result

DESCRIPTION = "tokens/s of generation with the tiny preset, ours and PyTorch's two loops"
REPEATS = 3
OURS, STANDARD, CACHED = "ours", "torch, standard loop", "torch, cached loop"
BATCHES = (1, 16)
PROMPT, TOKENS = 64, 128
SAMPLING = {"temperature": 0.8, "top_k": 200}


def add_flags(parser: ArgumentParser) -> None:
    """This benchmark takes none of its own."""


def measure(plan: Plan, flags: Namespace) -> list[Result]:
    """The results for every batch size and number of threads."""
    require_torch()
    results: list[Result] = []
    for threads in plan.threads:
        for batch in BATCHES[:1] if plan.smoke else BATCHES:
            cases = _cases(batch, threads, smoke=plan.smoke)
            answers = interleave(cases, repeats=plan.repeats)
            speeds = {name: samples(found, "speed") for name, found in answers.items()}
            results += [Result.median(name, s, "tokens/s") for name, s in speeds.items()]
            title = next(iter(cases)).rpartition("/")[0]
            for side in (STANDARD, CACHED):
                bar: Bar | None = (">=", 5.0) if batch == 1 and side == STANDARD else None
                found = ratios(speeds[f"{title}/{OURS}"], speeds[f"{title}/{side}"])
                results.append(Result.median(f"{title}/ours over {side}", found, "x", bar=bar))
    return results


def _cases(batch: int, threads: int, *, smoke: bool) -> dict[str, Case]:
    shape = SMOKE if smoke else TINY
    prompt, tokens, tries = (8, 4, 1) if smoke else (PROMPT, TOKENS, 3)
    common = {"batch": batch, "prompt": prompt, "tokens": tokens, "tries": tries, **SAMPLING}
    ours = {**common, "config": our_config(shape).to_dict()}
    theirs = {**common, "shape": asdict(shape)}
    title = f"batch {batch}, {threads_named(threads)}"
    peer = "benchmarks.sides.peer_decode"
    return {
        f"{title}/{OURS}": Case("benchmarks.sides.our_decode", ours, threads),
        f"{title}/{STANDARD}": Case(peer, {**theirs, "loop": "standard"}, threads),
        f"{title}/{CACHED}": Case(peer, {**theirs, "loop": "cached"}, threads),
    }
