"""Speed: tokens a second, model FLOPs utilisation, and the time that is left.

MFU = (tokens / second) * (FLOP / token) / (peak FLOP / second)      arXiv 2204.02311, appendix B
"""

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import jax


class Peak(NamedTuple):
    """Peak of all devices together [FLOP/s], and in words where the number comes from."""

    flops: float
    source: str


def mfu(*, tokens_per_second: float, flops_per_token: float, peak_flops: float) -> float:
    """Share of the devices' peak that the model's own arithmetic uses [fraction]."""
    return tokens_per_second * flops_per_token / peak_flops


class Meter:
    """Throughput over a sliding window of training time.

    Args:
        flops_per_token: work of one training token [FLOP].
        peak_flops: peak of all devices together [FLOP/s].
        window: length of the window [seconds].
        seconds: training time before the first update; more than 0 after a resume [seconds].
        tokens: tokens before the first update.
    """

    def __init__(
        self,
        *,
        flops_per_token: float,
        peak_flops: float,
        window: float = 10.0,
        seconds: float = 0.0,
        tokens: int = 0,
    ) -> None:
        self._flops_per_token, self._peak_flops = flops_per_token, peak_flops
        self._window = window
        self._marks = deque([(seconds, tokens)])

    def update(self, *, seconds: float, tokens: int) -> dict[str, float]:
        """The metrics `tokens_per_second` and `mfu` over the window that ends now.

        Args:
            seconds: training time since the run began; more than at the last update [seconds].
            tokens: tokens trained on since the run began.
        """
        self._marks.append((seconds, tokens))
        # The oldest mark stays just outside the window, so that a slow step has one to compare to.
        while len(self._marks) > 2 and self._marks[1][0] <= seconds - self._window:
            self._marks.popleft()
        start_seconds, start_tokens = self._marks[0]
        rate = (tokens - start_tokens) / (seconds - start_seconds)
        utilisation = mfu(
            tokens_per_second=rate,
            flops_per_token=self._flops_per_token,
            peak_flops=self._peak_flops,
        )
        return {"tokens_per_second": rate, "mfu": utilisation}


class TimeLeft:
    """Wall time to the end of the budget, from the pace of the last minute or so.

    Args:
        window: wall time that the pace is taken over [seconds].
    """

    def __init__(self, *, window: float = 60.0) -> None:
        self._window = window
        self._marks: deque[tuple[float, float]] = deque()

    def update(self, *, now: float, done: float) -> float | None:
        """Seconds left; None until a second update shows a pace.

        Args:
            now: any clock that runs evenly [seconds].
            done: share of the budget that is used [fraction].
        """
        self._marks.append((now, done))
        while len(self._marks) > 2 and self._marks[1][0] <= now - self._window:
            self._marks.popleft()
        start, done_at_start = self._marks[0]
        if done <= done_at_start:
            return None
        return max(0.0, 1.0 - done) * (now - start) / (done - done_at_start)


def peak_flops(devices: Sequence["jax.Device"], *, compute: str) -> Peak:
    """Peak of `devices`: from the table, or measured with a matrix product when not in it.

    A processor's is that of the format in which the run computes, bfloat16 or float32; with
    float16, for which it has no units, float32. Fake CPU devices share one processor, so that a CPU
    host counts once.
    """
    from rtdlm.parallel.accelerators import peak_of  # its room imports JAX

    kind = devices[0].device_kind
    listed = peak_of(kind)
    if listed is not None:
        return Peak(len(devices) * listed, f"{len(devices)} x {kind}, bfloat16, data sheet")
    if devices[0].platform == "cpu":
        hosts = len({device.process_index for device in devices})
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        # A core's speed by its own clock, so that a busy machine does not look like a slow one.
        dtype = "bfloat16" if compute == "bfloat16" else "float32"
        per_core = measure_matmul(devices[0], size=1024, dtype=dtype, clock=time.process_time)
        return Peak(
            hosts * (cores or 1) * per_core,
            f"measured: the best of five {dtype} products of 1024 x 1024 by CPU time, on {cores} "
            "cores",
        )
    flops = measure_matmul(devices[0], size=8192, dtype="bfloat16", clock=time.perf_counter)
    return Peak(
        len(devices) * flops,
        f"measured on {kind}: the best of five bfloat16 products of 8192 x 8192",
    )


def measure_matmul(
    device: "jax.Device", *, size: int, dtype: str, clock: Callable[[], float], repeats: int = 5
) -> float:
    """Speed of the fastest of `repeats` square matrix products on `device` by `clock` [FLOP/s]."""
    import jax
    import jax.numpy as jnp

    matrix = jax.device_put(jnp.ones((size, size), dtype), device)
    # Asking for float32 is what lets a CPU's bfloat16 units be used (modules/primitives/product).
    multiply = jax.jit(partial(jnp.matmul, preferred_element_type=jnp.float32))
    multiply(matrix, matrix).block_until_ready()
    best = float("inf")
    for _ in range(repeats):
        start = clock()
        multiply(matrix, matrix).block_until_ready()
        best = min(best, clock() - start)
    return 2 * size**3 / best
