"""Sparse experts: many feed-forward layers, few of them used by each token."""

from rtdlm.modules.experts.balance import is_bias
from rtdlm.modules.experts.router import ExpertStatistics, Routing, route
from rtdlm.modules.experts.sparse import SparseExperts

__all__ = ["ExpertStatistics", "Routing", "SparseExperts", "is_bias", "route"]
