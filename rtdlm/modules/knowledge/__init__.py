"""Parametric memory: large trained tables of which a token reads a few rows."""

from rtdlm.modules.knowledge.hashed import HashedMemory
from rtdlm.modules.knowledge.product_key import Found, ProductKeyMemory, best_pairs, weighted_rows

__all__ = ["Found", "HashedMemory", "ProductKeyMemory", "best_pairs", "weighted_rows"]
