"""Attention: how a token reads the tokens before it."""

from rtdlm.modules.attention.cache import KVCache
from rtdlm.modules.attention.gqa import GroupedQueryAttention
from rtdlm.modules.attention.mask import cache_mask, causal_mask
from rtdlm.modules.attention.rope import Rotation, rotate, rotation

__all__ = [
    "GroupedQueryAttention",
    "KVCache",
    "Rotation",
    "cache_mask",
    "causal_mask",
    "rotate",
    "rotation",
]
