"""Attention: how a token reads the tokens before it."""

from rtdlm.modules.attention.block_cache import BlockCache
from rtdlm.modules.attention.cache import KVCache
from rtdlm.modules.attention.cross import CrossAttention, document_mask, memory_mask
from rtdlm.modules.attention.dot_product import attend, attend_causally
from rtdlm.modules.attention.gqa import (
    AttentionOutput,
    Beside,
    Elsewhere,
    GroupedQueryAttention,
)
from rtdlm.modules.attention.kind import Cache, Heads, Kind, Rows, Window
from rtdlm.modules.attention.kinds import KINDS, with_alibi, with_window
from rtdlm.modules.attention.linear import LinearState, linear_attention, linear_step
from rtdlm.modules.attention.mask import cache_mask, causal_mask
from rtdlm.modules.attention.ring import RingCache, attend_ring
from rtdlm.modules.attention.ring_attention import attend_round
from rtdlm.modules.attention.rope import Rotation, rotate, rotation
from rtdlm.modules.attention.sliding import attend_window
from rtdlm.modules.attention.sparse import sparse_branches
from rtdlm.modules.attention.spike_cache import SpikeCache
from rtdlm.modules.attention.spiking import SpikeStatistics, attend_spiking
from rtdlm.modules.attention.stopped import StoppedCache
from rtdlm.modules.attention.values import ValueSources

__all__ = [
    "KINDS",
    "AttentionOutput",
    "Beside",
    "BlockCache",
    "Cache",
    "CrossAttention",
    "Elsewhere",
    "GroupedQueryAttention",
    "Heads",
    "KVCache",
    "Kind",
    "LinearState",
    "RingCache",
    "Rotation",
    "Rows",
    "SpikeCache",
    "SpikeStatistics",
    "StoppedCache",
    "ValueSources",
    "Window",
    "attend",
    "attend_causally",
    "attend_ring",
    "attend_round",
    "attend_spiking",
    "attend_window",
    "cache_mask",
    "causal_mask",
    "document_mask",
    "linear_attention",
    "linear_step",
    "memory_mask",
    "rotate",
    "rotation",
    "sparse_branches",
    "with_alibi",
    "with_window",
]
