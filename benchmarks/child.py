"""The child process of a measurement: `python -m benchmarks.child MODULE SPEC`.

Restricts itself to the cores that the spec names before any library starts its threads, then calls
`MODULE.measure(spec)` and prints what it returns as the last line of its output. A child therefore
knows one library only: JAX or PyTorch, never both.
"""

import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

ANSWER = "ANSWER "
Spec = Mapping[str, Any]
Answer = dict[str, Any]


def main(module: str, text: str) -> None:
    """Measures and answers."""
    spec = json.loads(text)
    if hasattr(os, "sched_setaffinity"):  # not on macOS
        os.sched_setaffinity(0, spec["cores"])
    answer = importlib.import_module(module).measure(spec)
    used = resource.getrusage(resource.RUSAGE_SELF)
    unit = 1 if sys.platform == "darwin" else 1024
    answer["peak_bytes"] = used.ru_maxrss * unit
    answer["process_cpu_seconds"] = used.ru_utime + used.ru_stime
    print(ANSWER + json.dumps(answer), flush=True)


def since_spawned(spec: Spec) -> float:
    """Wall time since the parent started this process [seconds]."""
    return time.time() - spec["spawned"]


class Times(NamedTuple):
    """Wall and CPU time of something [seconds]."""

    wall: float
    cpu: float


class Timer:
    """Wall and CPU time of this process since the timer was made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> Times:
        """Time since the start [seconds]."""
        return Times(time.perf_counter() - self._wall, time.process_time() - self._cpu)


def time_blocks(
    advance: Callable[[int], object], *, seconds: float, block_seconds: float = 0.25
) -> Answer:
    """Times `advance(count)`, which does `count` equal pieces of work and waits for the last.

    The first call is the compilation's; one more block warms up and sizes the blocks, which take
    no longer than all of them should.

    Returns:
        `first_wall`, `first_cpu`: of the very first piece [seconds];
        `wall`, `cpu`: medians over blocks of the time of one piece [seconds].
    """
    timer = Timer()
    advance(1)
    first = timer.read()
    timer = Timer()
    advance(2)
    count = max(1, round(min(block_seconds, seconds) / max(timer.read().wall / 2, 1e-6)))
    advance(count)
    blocks: list[Times] = []
    whole = Timer()
    while not blocks or whole.read().wall < seconds:
        timer = Timer()
        advance(count)
        blocks.append(timer.read())
    wall, cpu = ([getattr(block, kind) / count for block in blocks] for kind in ("wall", "cpu"))
    return {
        "first_wall": first.wall,
        "first_cpu": first.cpu,
        "wall": _median(wall),
        "cpu": _median(cpu),
    }


def _median(samples: Sequence[float]) -> float:
    middle = sorted(samples)
    half = len(middle) // 2
    return middle[half] if len(middle) % 2 else (middle[half - 1] + middle[half]) / 2


if __name__ == "__main__":
    main(*sys.argv[1:])
