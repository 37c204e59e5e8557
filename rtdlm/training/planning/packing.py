"""Where buffers lie in one block of memory, so that those alive together do not overlap.

The largest is placed first, each into the smallest gap that holds it beside those alive at the same
time: XLA's own heuristic (GlobalDecreasingSizeBestFitHeap). What it leaves unused between them is
memory that a program takes and never needs.
"""

from bisect import insort
from collections.abc import Sequence
from math import inf
from typing import NamedTuple


class Span(NamedTuple):
    """A buffer: when it appears, the last moment at which it is needed, and its size [bytes]."""

    start: float
    end: float
    bytes: float


def packed_size(spans: Sequence[Span]) -> float:
    """Size of the block that holds all of `spans` [bytes]."""
    placed: list[tuple[float, float, Span]] = []
    total = 0.0
    for span in sorted(spans, key=lambda span: (-span.bytes, span.start)):
        offset = _best_fit(span, placed)
        insort(placed, (offset, offset + span.bytes, span))
        total = max(total, offset + span.bytes)
    return total


def _best_fit(span: Span, placed: Sequence[tuple[float, float, Span]]) -> float:
    """The offset of the smallest gap that fits; else the end."""
    reached, best, room = 0.0, 0.0, inf
    for start, stop, other in placed:
        if other.start <= span.end and span.start <= other.end:
            gap = start - reached
            if span.bytes <= gap < room:
                best, room = reached, gap
            reached = max(reached, stop)
    return best if room < inf else reached
