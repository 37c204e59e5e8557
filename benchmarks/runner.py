"""Runs the sides of a benchmark as child processes, interleaved, and prints what came of it."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import Queue
from typing import Any, NamedTuple

from benchmarks import ROOT
from benchmarks.child import ANSWER, Answer
from rtdlm.config.errors import UserError
from rtdlm.evaluation.results import Result, number


class Plan(NamedTuple):
    """What every benchmark is told."""

    smoke: bool
    """Tiny sizes, a few seconds: says that it runs, not how fast."""
    repeats: int
    """Child processes a case; with seeds, seeds a side."""
    threads: tuple[int, ...]
    """Numbers of cores that the cases are given, one after the other."""


class Case(NamedTuple):
    """One side of a measurement in one setting."""

    module: str
    """Its `measure(spec)` runs in the child."""
    spec: Mapping[str, Any]
    threads: int = 1
    environment: Mapping[str, str] | None = None


def cores() -> list[int]:
    """Numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def require_torch() -> None:
    """Raises UserError unless PyTorch is installed."""
    if importlib.util.find_spec("torch") is None:
        raise UserError(
            "PyTorch, which the peer is written in, is not installed; install it with "
            "`pip install 'rtdlm[bench]'` or `pip install torch`"
        )


def has_compiler() -> bool:
    """Whether `torch.compile` finds the C++ compiler that it needs; says so where it does not."""
    found = shutil.which(os.environ.get("CXX", "g++")) is not None
    if not found:
        tell("no C++ compiler (g++, or what CXX names): the peer runs without torch.compile")
    return found


def run_case(case: Case, *, on: Sequence[int] | None = None) -> Answer:
    """Runs one case in a fresh process on `on` (None: the last of our cores); returns its answer.

    Raises:
        RuntimeError: the child failed; the message ends with what it said.
    """
    chosen = list(cores()[-case.threads :] if on is None else on)
    spec = {**case.spec, "cores": chosen, "threads": len(chosen), "spawned": time.time()}
    command = [sys.executable, "-m", "benchmarks.child", case.module, json.dumps(spec)]
    done = subprocess.run(
        command, cwd=ROOT, env=_environment(case, len(chosen)), capture_output=True, text=True
    )
    lines = done.stdout.splitlines()
    if done.returncode or not lines or not lines[-1].startswith(ANSWER):
        said = "\n".join((done.stderr or done.stdout).splitlines()[-15:])
        raise RuntimeError(f"{case.module} ended with status {done.returncode}:\n{said}")
    answer: Answer = json.loads(lines[-1].removeprefix(ANSWER))
    return answer


def interleave(cases: Mapping[str, Case], *, repeats: int) -> dict[str, list[Answer]]:
    """Answers of every case, `repeats` each: round after round, so that drift meets all alike."""
    answers: dict[str, list[Answer]] = {name: [] for name in cases}
    for turn in range(repeats):
        for name, case in cases.items():
            tell(f"{name} ({turn + 1}/{repeats})")
            answers[name].append(run_case(case))
    return answers


def run_all(cases: Sequence[Case], *, at_once: int) -> list[Answer]:
    """Answers of single-threaded cases, `at_once` of them running on a core of their own each."""
    free: Queue[int] = Queue()
    for core in cores()[-at_once:]:
        free.put(core)

    def run(case: Case) -> Answer:
        core = free.get()
        try:
            tell(f"{case.module} {_brief(case.spec)} on core {core}")
            return run_case(case, on=[core])
        finally:
            free.put(core)

    with ThreadPoolExecutor(max_workers=free.qsize()) as pool:
        return list(pool.map(run, cases))


def threads_named(count: int) -> str:
    """How results name a number of threads."""
    return "1 thread" if count == 1 else f"{count} threads"


def tell(line: str) -> None:
    """Progress, on standard error."""
    print(f"  {line}", file=sys.stderr, flush=True)


def print_results(results: Sequence[Result]) -> None:
    """All results as a table on the terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table("what", box=None)
    for head in ("median", "smallest", "largest", "n", ""):
        table.add_column(head, justify="left" if head == "" else "right")
    for result in results:
        ends = ("", "") if result.spread is None else tuple(map(number, result.spread))
        table.add_row(result.name, number(result.value), *ends, str(result.n), result.unit)
    console = Console()
    console = console if console.is_terminal else Console(width=140)
    console.print(table)


def samples(answers: Sequence[Answer], key: str, *, scale: float = 1.0) -> list[float]:
    """One quantity of every answer."""
    return [answer[key] * scale for answer in answers]


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """above / below, round by round: a slow moment of the machine is in both."""
    return [a / b for a, b in zip(above, below, strict=True)]


def scratch() -> "tempfile.TemporaryDirectory[str]":
    """An empty directory that goes away again, for caches that start cold."""
    return tempfile.TemporaryDirectory(prefix="rtdlm-bench-")


def cache_environment(directory: str) -> dict[str, str]:
    """Environment under which JAX and PyTorch keep compiled programs in `directory` alone."""
    return {
        "JAX_COMPILATION_CACHE_DIR": f"{directory}/jax",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "RTDLM_CACHE_DIR": f"{directory}/rtdlm",
        "TORCHINDUCTOR_CACHE_DIR": f"{directory}/inductor",
        "TORCHINDUCTOR_FX_GRAPH_CACHE": "1",
    }


def _environment(case: Case, threads: int) -> dict[str, str]:
    ours = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    return {**os.environ, **ours, **(case.environment or {})}


def _brief(spec: Mapping[str, Any]) -> str:
    shown: Iterator[str] = (f"{k}={v}" for k, v in spec.items() if not isinstance(v, dict | list))
    return " ".join(shown)


Measure = Callable[[Plan, Any], list[Result]]
"""A benchmark: (plan, parsed flags) -> results."""
