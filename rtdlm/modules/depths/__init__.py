"""Depths: which tokens of a row a layer works on."""

from rtdlm.modules.depths.router import Chosen, DepthRouter, DepthStatistics, gather, scatter

__all__ = ["Chosen", "DepthRouter", "DepthStatistics", "gather", "scatter"]
