"""The shortest time that a step can take on given devices: no part may be faster than its unit.

    t >= max(FLOP / peak, bytes of HBM / bandwidth, bytes sent / interconnect)       all overlapped
    t <= their sum                                                                   nothing is

(Williams, Waterman and Patterson, 2009, doi 10.1145/1498765.1498785; with communication as a third
roof.) Real kernels stay below the peak, so that even the sum may be optimistic. A TPU sends around
a ring of one dimension of its torus, both ways at once; GPUs by NVLink while a group is within the
eight of a node, and by the network beyond.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rtdlm.parallel.accelerators import Accelerator
from rtdlm.parallel.collectives import Collective


@dataclass(frozen=True)
class Roofline:
    """Times of one step of one device [seconds]."""

    compute: float
    memory: float
    communication: float
    useful: float
    """The part of `compute` that is the model's own arithmetic, without recomputation."""

    @property
    def overlapped(self) -> float:
        """All three at once: no step is shorter."""
        return max(self.compute, self.memory, self.communication)

    @property
    def serial(self) -> float:
        """One after the other."""
        return self.compute + self.memory + self.communication

    @property
    def bound(self) -> str:
        """Which of them is the longest."""
        times = {
            "arithmetic": self.compute,
            "memory bandwidth": self.memory,
            "communication": self.communication,
        }
        return max(times, key=lambda name: times[name])

    @property
    def mfu(self) -> tuple[float, float]:
        """Model FLOPs utilisation, nothing overlapped and all of it [fractions]."""
        return self.useful / self.serial, self.useful / self.overlapped


def roofline(
    accelerator: Accelerator,
    *,
    compute: str,
    flops: float,
    useful_flops: float,
    memory_bytes: float,
    collectives: Iterable[Collective],
    axis_sizes: Mapping[str, int],
) -> Roofline | None:
    """The bounds for one device and step; None where the data sheet is silent (processors).

    Args:
        accelerator: the devices' kind.
        compute: format of the matrix products.
        flops: work of one device, with what is recomputed [FLOP].
        useful_flops: of it, the model's own [FLOP].
        memory_bytes: read from and written to HBM by one device [bytes].
        collectives: what one device sends.
        axis_sizes: devices along each mesh axis, slowest first.
    """
    if accelerator.memory_bandwidth is None or not accelerator.flops:
        return None
    peak = accelerator.flops[compute]
    sending = sum(
        row.sent / bandwidth(accelerator, row, axis_sizes=axis_sizes) for row in collectives
    )
    return Roofline(
        compute=flops / peak,
        memory=memory_bytes / accelerator.memory_bandwidth,
        communication=sending,
        useful=useful_flops / peak,
    )


def bandwidth(
    accelerator: Accelerator, collective: Collective, *, axis_sizes: Mapping[str, int]
) -> float:
    """What one device can send while it takes part in `collective` [bytes/s]."""
    assert accelerator.link is not None
    if accelerator.torus:
        return 2 * accelerator.link
    assert accelerator.network is not None
    # The last axes are the nearest: a group's devices are apart by what the axes after it span.
    span = _span(collective, axis_sizes)
    return accelerator.link if span <= accelerator.neighbours else accelerator.network


def _span(collective: Collective, axis_sizes: Mapping[str, int]) -> int:
    """Consecutive devices that hold a whole group."""
    span = 1
    reached = 1
    for axis, size in reversed(list(axis_sizes.items())):
        span *= size
        if axis in collective.axes:
            reached = span
    return reached if collective.axes else max(span, collective.group)
