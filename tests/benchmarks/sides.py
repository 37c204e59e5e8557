"""Sides of the time-to-loss benchmark that train nothing; they run in child processes."""

from pathlib import Path

from benchmarks.timing import Timing


def instant(text: Path, *, seed: int, target: float | None, reached: bool = True) -> Timing:
    """Says that it reached the target in two seconds."""
    assert text.is_file()
    assert target is not None
    return Timing(reached, target, 10 + seed, 2.0, 3.0, 0.5, 0.6, 1000)


def measure(spec: dict[str, object]) -> dict[str, object]:
    """The `measure` of a child: says what it was given, or fails as asked."""
    import os

    if spec.get("fail"):
        raise ValueError("asked to fail")
    affinity = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    return {"cores": spec["cores"], "affinity": affinity, "word": os.environ.get("BENCH_WORD")}
