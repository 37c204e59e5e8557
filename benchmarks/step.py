"""`python -m benchmarks step`: one training step of the same model, ours and the peer's.

Forward, backward, clipping and optimizer, on rows of random tokens; the loss is read at the end of
a block of steps. The first round starts with empty compilation caches and says what compiling
costs; the later rounds find them full.

On one core the ratio is of CPU seconds, which neighbours on a shared machine hardly change; on
several it is of wall seconds, since waiting threads burn CPU. MFU is taken by the same clock.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from benchmarks.child import Answer
from benchmarks.peak import FORMULA, measure_peaks, mfu, peak_results
from benchmarks.peer.shape import Shape
from benchmarks.runner import (
    Case,
    Plan,
    cache_environment,
    has_compiler,
    interleave,
    ratios,
    require_torch,
    samples,
    scratch,
    tell,
    threads_named,
)
from benchmarks.shapes import SMALL, SMALL_GPT, SMOKE, TINY, our_config
from rtdlm.evaluation.results import Bar, Result
from rtdlm.models.cost import train_flops_per_token

DESCRIPTION = "ms a training step, tokens/s, compile time and MFU, ours and PyTorch's"
REPEATS = 3
OURS, EAGER, COMPILED = "ours", "torch eager", "torch compiled"
SHIPPED = "ours, as the preset ships"


class Work(NamedTuple):
    """A model and the batch it is trained on."""

    shape: Shape
    batch: int
    default_too: bool
    """Also time our default optimizer, as a row of its own."""


WORKS = {
    "small GPT": Work(SMALL_GPT, 12, default_too=False),
    "small, our default block": Work(SMALL, 12, default_too=False),
    "tiny preset": Work(TINY, 8, default_too=True),
}
SMOKE_WORKS = {"tiny preset": Work(SMOKE, 2, default_too=False)}


def add_flags(parser: ArgumentParser) -> None:
    """Adds what only this benchmark takes."""
    parser.add_argument(
        "--only",
        metavar="WORD",
        default="",
        help="models whose name holds WORD: " + ", ".join(WORKS),
    )
    parser.add_argument(
        "--seconds", type=float, default=4.0, metavar="S",
        help="timed in every child process, after its compilation (default: 4)",
    )  # fmt: skip


def measure(plan: Plan, flags: Namespace) -> list[Result]:
    """The results of all models on all numbers of threads."""
    require_torch()
    works = SMOKE_WORKS if plan.smoke else WORKS
    precisions = ("float32",) if plan.smoke else ("float32", "bfloat16")
    size, tries = (64, 1) if plan.smoke else (2048, 10)
    peaks = measure_peaks(plan.threads, precisions=precisions, size=size, repeats=tries)
    results = peak_results(peaks)
    for name, work in works.items():
        for threads in plan.threads:
            if flags.only in name:
                seconds = 0.05 if plan.smoke else flags.seconds
                sides = _sides(work, threads, seconds=seconds, smoke=plan.smoke)
                results += _measure_sides(
                    f"{name}, {threads_named(threads)}", sides, plan, work, peaks
                )
    tell(FORMULA)
    return results


def _sides(work: Work, threads: int, *, seconds: float, smoke: bool) -> dict[str, Case]:
    """Everything that runs one model on one number of threads."""

    def ours(precision: str, **overrides: Any) -> Case:
        config = our_config(
            work.shape,
            batch_size=work.batch,
            num_steps=1000,
            precision={"compute": precision},
            **overrides,
        )
        spec = {"config": config.to_dict(), "seconds": seconds}
        return Case("benchmarks.sides.our_step", spec, threads)

    def peer(precision: str, *, compiled: bool) -> Case:
        spec = {
            "shape": asdict(work.shape),
            "batch": work.batch,
            "precision": precision,
            "compiled": compiled,
            "seconds": seconds,
        }
        return Case("benchmarks.sides.peer_step", spec, threads)

    float32 = {OURS: ours("float32"), EAGER: peer("float32", compiled=False)}
    if smoke:
        return float32
    bfloat16 = {
        f"{OURS}, bfloat16": ours("bfloat16"),
        f"{EAGER}, bfloat16": peer("bfloat16", compiled=False),
    }
    if has_compiler():
        float32[COMPILED] = peer("float32", compiled=True)
        bfloat16[f"{COMPILED}, bfloat16"] = peer("bfloat16", compiled=True)
    # Its own optimizer, and the format that `precision.compute=auto` comes to on this machine.
    default = {SHIPPED: ours("auto", optimizer={})} if work.default_too else {}
    return {**float32, **bfloat16, **default}


def _measure_sides(
    title: str,
    sides: Mapping[str, Case],
    plan: Plan,
    work: Work,
    peaks: Mapping[tuple[int, str], float],
) -> list[Result]:
    with scratch() as directory:
        environment = cache_environment(directory)
        cases = {f"{title}/{k}": v._replace(environment=environment) for k, v in sides.items()}
        answers = interleave(cases, repeats=plan.repeats)
    tokens = work.batch * work.shape.length
    flops = train_flops_per_token(our_config(work.shape))
    results: list[Result] = []
    for side, case in sides.items():
        name, clock = f"{title}/{side}", _clock(case.threads)
        results += _quantities(name, answers[name], tokens)
        low = any(answer["compute"] == "bfloat16" for answer in answers[name])
        for compute in ("float32", "bfloat16") if low else ("float32",):
            peak = peaks[case.threads, compute]
            used = [
                mfu(answer, tokens=tokens, flops_per_token=flops, peak=peak, clock=clock)
                for answer in answers[name]
            ]
            barred = compute == "float32" and side in (OURS, SHIPPED) and "tiny" in title
            bar: Bar | None = (">=", 60.0) if barred else None
            results.append(Result.median(f"{name}/MFU, {compute} peak", used, "%", bar=bar))
    by_side = {side: answers[f"{title}/{side}"] for side in sides}
    return results + _ratios(title, by_side, threads=sides[OURS].threads)


def _quantities(name: str, answers: Sequence[Answer], tokens: int) -> list[Result]:
    """Everything that is told of one side."""
    rates = [tokens / answer["wall"] for answer in answers]
    results = [
        Result.median(f"{name}/wall", samples(answers, "wall", scale=1e3), "ms"),
        Result.median(f"{name}/CPU", samples(answers, "cpu", scale=1e3), "ms"),
        Result.median(f"{name}/speed", rates, "tokens/s"),
        Result.median(f"{name}/start-up", samples(answers, "startup_wall"), "s"),
        Result(f"{name}/first step, cold", _compiling(answers[0]), "s"),
    ]
    if warm := answers[1:]:
        found = [_compiling(answer) for answer in warm]
        results.append(Result.median(f"{name}/first step, warm", found, "s"))
    peak = samples(answers, "peak_bytes", scale=2.0**-20)
    return [*results, Result.median(f"{name}/memory", peak, "MiB")]


def _clock(threads: int) -> str:
    """The time that sides are compared by."""
    return "cpu" if threads == 1 else "wall"


def _compiling(answer: Answer) -> float:
    """What the first step took beyond a step: compilation, or finding it in the cache."""
    return max(0.0, answer["first_wall"] - answer["wall"])


def _ratios(title: str, answers: Mapping[str, Sequence[Answer]], *, threads: int) -> list[Result]:
    """Theirs over ours, round by round; the bars are on float32 and, where there is, bfloat16."""
    kind = _clock(threads)
    unit = "CPU" if kind == "cpu" else "wall"
    ours = samples(answers[OURS], kind)
    results = []
    for side in (EAGER, COMPILED):
        if side in answers:
            found = ratios(samples(answers[side], kind), ours)
            name = f"{title}/{side} over ours, {unit}"
            results.append(Result.median(name, found, "x", bar=(">=", 1.0)))
    if f"{OURS}, bfloat16" in answers:
        found = ratios(ours, samples(answers[f"{OURS}, bfloat16"], kind))
        bar: Bar | None = (">=", 1.3) if "tiny" in title else None
        name = f"{title}/our float32 over our bfloat16, {unit}"
        results.append(Result.median(name, found, "x", bar=bar))
    return results
