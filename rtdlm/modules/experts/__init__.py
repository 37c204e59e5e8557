"""Sparse experts: many feed-forward layers, few of them used by each token."""

from rtdlm.modules.experts.router import ExpertStatistics, Routing, route
from rtdlm.modules.experts.sparse import SparseExperts

__all__ = ["ExpertStatistics", "Routing", "SparseExperts", "route"]
