"""`python -m benchmarks attention`: kinds of attention by the length of the row.

Forward and backward, one row, 4 query heads over 2 key-value heads of 64 features; a window of 256,
for sparse attention 4 chosen blocks of 64, for its simpler form 64 chosen keys and 4 first tokens,
and one spike in six tokens. Memory is what the compiled program allocates beside its arguments and
results; a case that would take more than the limit is left out.

The ring's row lies on 8 fake devices, which share the cores: its time is that of all 8 together,
its memory that of one.

Ratios on one core are of CPU seconds, which neighbours on a shared machine hardly change.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.child import Answer
from benchmarks.runner import Case, Plan, interleave, ratios, samples, tell, threads_named
from rtdlm.evaluation.results import Bar, Result

DESCRIPTION = "time and memory of every kind of attention against dense, T 1k to 16k"
REPEATS = 3
KINDS = ("dense", "sliding", "sparse", "topk", "spiking", "linear", "delta", "ring")
COMPARED = "compared"
"""What names of ratios begin with."""
DEVICES = 8
"""Of the ring."""
SIZES = {
    "heads": 4, "kv_heads": 2, "width": 64, "window": 256, "block": 64, "chosen": 4,
    "chosen_keys": 64, "first": 4,
}  # fmt: skip
SMOKE_SIZES = {
    "heads": 2, "kv_heads": 1, "width": 8, "window": 16, "block": 8, "chosen": 2,
    "chosen_keys": 4, "first": 2,
}  # fmt: skip
LENGTHS = {"float32": (1024, 2048, 4096, 8192, 16384), "bfloat16": (4096,)}
SMOKE_LENGTHS = {"float32": (32, 64)}
AT = 4096
"""Length at which the kinds are compared, and from which growth is taken."""

ByKind = Mapping[str, Sequence[Answer]]


def add_flags(parser: ArgumentParser) -> None:
    """Adds what only this benchmark takes."""
    parser.add_argument(
        "--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="those to measure (all)"
    )
    parser.add_argument(
        "--gib", type=float, default=8.0, metavar="G",
        help="leave out a case that would allocate more (default: 8)",
    )  # fmt: skip
    parser.add_argument(
        "--seconds", type=float, default=2.0, metavar="S",
        help="timed in every child process, after its compilation (default: 2)",
    )  # fmt: skip


def measure(plan: Plan, flags: Namespace) -> list[Result]:
    """The results of all lengths on all numbers of threads."""
    results: list[Result] = []
    for threads in plan.threads:
        for precision, lengths in (SMOKE_LENGTHS if plan.smoke else LENGTHS).items():
            found: dict[int, ByKind] = {}
            for length in lengths:
                title = f"T {length}, {precision}, {threads_named(threads)}"
                cases = _cases(title, length, precision, threads, plan, flags)
                answers = interleave(cases, repeats=plan.repeats)
                found[length] = _measured(title, answers, flags.kinds, limit=flags.gib)
                results += _quantities(title, found[length])
            at = lengths[0] if plan.smoke else AT
            results += _ratios(found, at, precision, threads)
            results += _crossings(found, precision, threads)
    return results


def _cases(
    title: str, length: int, precision: str, threads: int, plan: Plan, flags: Namespace
) -> dict[str, Case]:
    common = {
        **(SMOKE_SIZES if plan.smoke else SIZES),
        "length": length,
        "precision": precision,
        "seconds": 0.01 if plan.smoke else flags.seconds,
        "limit": flags.gib * 2**30,
    }
    return {f"{title}/{kind}": _case({**common, "kind": kind}, threads) for kind in flags.kinds}


def _case(spec: Mapping[str, Any], threads: int) -> Case:
    ring = spec["kind"] == "ring"
    many = {"JAX_NUM_CPU_DEVICES": str(DEVICES)} if ring else None
    spec = {**spec, "devices": DEVICES if ring else 1}
    return Case("benchmarks.sides.our_attention", spec, threads, many)


def _measured(
    title: str, answers: Mapping[str, Sequence[Answer]], kinds: Sequence[str], *, limit: float
) -> ByKind:
    """Answers by kind, without those of cases that were too large."""
    found = {}
    for kind in kinds:
        of_kind = answers[f"{title}/{kind}"]
        if "wall" in of_kind[0]:
            found[kind] = of_kind
        else:
            need = of_kind[0]["temporary_bytes"] / 2**30
            tell(f"{title}/{kind} left out: it takes {need:.1f} GiB, the limit is {limit:g} GiB")
    return found


def _quantities(title: str, answers: ByKind) -> list[Result]:
    results = []
    for kind, of_kind in answers.items():
        name = f"{title}/{kind}"
        memory, process = (
            samples(of_kind, what, scale=2.0**-20) for what in ("temporary_bytes", "peak_bytes")
        )
        results += [
            Result.median(f"{name}/wall", samples(of_kind, "wall", scale=1e3), "ms"),
            Result.median(f"{name}/CPU", samples(of_kind, "cpu", scale=1e3), "ms"),
            Result.median(f"{name}/memory", memory, "MiB"),
            Result.median(f"{name}/process", process, "MiB"),
        ]
    return results


def _ratios(found: Mapping[int, ByKind], at: int, precision: str, threads: int) -> list[Result]:
    """Dense over each kind at `at`, and each kind's growth from there to twice the length."""
    clock, unit = _clock(threads)
    setting = f"{precision}, {threads_named(threads)}"
    results = []
    for kind, here in found[at].items():
        sliding, row = kind == "sliding", f"{COMPARED}, {setting}/{kind}"
        if kind != "dense" and "dense" in found[at]:
            times = ratios(samples(found[at]["dense"], clock), samples(here, clock))
            bar: Bar | None = (">=", 3.0) if sliding else None
            name = f"{row}/dense over it at T {at}, {unit}"
            results.append(Result.median(name, times, "x", bar=bar))
        twice = found.get(2 * at, {}).get(kind)
        if twice is not None:
            growth_bar: Bar | None = ("<=", 2.2) if sliding else None
            for what, label in ((clock, unit), ("temporary_bytes", "memory")):
                name = f"{row}/T {2 * at} over T {at}, {label}"
                growth = ratios(samples(twice, what), samples(here, what))
                results.append(Result.median(name, growth, "x", bar=growth_bar))
    return results


def _crossings(found: Mapping[int, ByKind], precision: str, threads: int) -> list[Result]:
    """The length from which on each kind is faster than dense at all lengths that have both."""
    clock, unit = _clock(threads)
    results = []
    for kind in KINDS[1:]:
        beats = {}
        for length, answers in found.items():
            if kind in answers and "dense" in answers:
                times = ratios(samples(answers["dense"], clock), samples(answers[kind], clock))
                beats[length] = median(times) > 1.0
        since = first_of_last_run(beats)
        if len(beats) > 1 and since is not None:
            setting = f"{precision}, {threads_named(threads)}"
            name = f"{COMPARED}, {setting}/{kind}/faster than dense from T, {unit}"
            results.append(Result(name, float(since), "tokens"))
    return results


def first_of_last_run(beats: Mapping[int, bool]) -> int | None:
    """The smallest length from which on all are True; None if the largest is not."""
    since = None
    for length in sorted(beats, reverse=True):
        if not beats[length]:
            break
        since = length
    return since


def _clock(threads: int) -> tuple[str, str]:
    """What is timed, and its name."""
    return ("cpu", "CPU") if threads == 1 else ("wall", "wall")
