"""Depths: which tokens of a row a layer works on."""

from rtdlm.modules.depths.router import Chosen, DepthRouter, DepthStatistics
from rtdlm.modules.depths.together import (
    Places,
    Together,
    gather,
    gather_ints,
    moved_together,
    part_of,
    scatter,
)

__all__ = [
    "Chosen",
    "DepthRouter",
    "DepthStatistics",
    "Places",
    "Together",
    "gather",
    "gather_ints",
    "moved_together",
    "part_of",
    "scatter",
]
