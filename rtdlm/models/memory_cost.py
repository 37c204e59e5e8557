"""What a layer's memory costs: parameters and operations, counted as in `rtdlm.models.cost`."""

from rtdlm.config import AGIConfig
from rtdlm.modules.memory.recurrent import CHANNEL_CHUNK
from rtdlm.modules.primitives import PASSES
from rtdlm.modules.primitives.delta_rule import CHUNK

SEARCH = PASSES + 3
"""What finding the best of all scores costs for each, at most, in multiplications with additions:
the passes of `largest`, which searches a part of a large store, two of the softmax and one of the
use that is noted."""


def memory_products(config: AGIConfig) -> int:
    """Parameters that multiply a token's features."""
    memory, d = config.memory, config.d_model
    heads, features = config.memory_heads, config.head_dim
    tiers = len(memory.layer_tiers)
    own = 0 if memory.by_attention else 4 * d + 3 * memory.conv_width
    total = own * heads * features
    if memory.fusion == "cross":
        total += heads * features * features
    else:
        total += d * heads * _gates(memory.fusion, tiers)
    if memory.recurrent != "none":
        by_feature = {"gated_delta": 0, "channel_decay": 1, "erase_write": 3}[memory.recurrent]
        by_head = {"gated_delta": 2, "channel_decay": 1, "erase_write": 0}[memory.recurrent]
        total += d * heads * (by_head + by_feature * features)
    return total


def memory_once(config: AGIConfig) -> int:
    """Parameters that multiply what a whole segment left behind."""
    memory, heads, features = config.memory, config.memory_heads, config.head_dim
    total = memory.task_tokens * heads * features if "mtm" in memory.layer_tiers else 0
    total += heads * features if memory.summary_slots else 0
    if memory.task_slots:
        total += memory.task_slots * (heads * features + 2 * config.d_model) + heads * features
    return total


def memory_vectors(config: AGIConfig) -> int:
    """Parameters of scales, biases and norms, those around memory's own heads apart."""
    memory, heads, features = config.memory, config.memory_heads, config.head_dim
    total = (
        0 if memory.fusion == "cross" else heads * _gates(memory.fusion, len(memory.layer_tiers))
    )
    total += 3 * heads if "stm" in memory.layer_tiers else 0
    total += (2 + memory.episodic_recency) * heads if memory.episodic_slots else 0
    total += 4 * heads if memory.summary_slots else 0
    if memory.recurrent != "none":
        total += heads * (2 if memory.recurrent == "gated_delta" else 1 + features)
    if "mtm" in memory.layer_tiers:
        total += heads * (2 + memory.task_tokens)
    if memory.task_slots:
        total += heads * features  # the norm before the bank
    return total


def memory_reads(config: AGIConfig, *, length: int) -> float:
    """Products of a token with what is remembered, and its share of those at a segment's end."""
    memory, heads, features = config.memory, config.memory_heads, config.head_dim
    assert memory.segment is not None
    segment = min(memory.segment, length)
    window = memory.stm_window if "stm" in memory.layer_tiers else 0
    rows = 2.0 * (window + memory.episodic_slots + memory.summary_slots)
    rows += 3 if memory.summary_slots else 0  # each token's share of the one that is pooled
    if memory.needs_novelty:
        rows += memory.episodic_slots + segment  # each token's key beside all others
    if memory.recurrent != "none":
        # With a decay a feature, products of queries and keys are of halves with halves.
        products, chunk = (4, CHUNK) if memory.recurrent == "gated_delta" else (3, CHANNEL_CHUNK)
        rows += products * min(segment, chunk) + 3 * features
    if "mtm" in memory.layer_tiers:
        rows += features + 3 * memory.task_tokens
        rows += memory.task_tokens * (4 * memory.task_tokens + 3 * features) / segment
    if memory.consolidate:
        rows += memory.consolidate * (4 * min(memory.consolidate, CHUNK) + 3 * features) / segment
    fused = len(memory.layer_tiers) * (2 if memory.fusion == "cross" else 1)
    bank = memory_once(config) / segment if memory.task_slots else 0.0
    search = heads * memory.episodic_slots * SEARCH
    return heads * features * (rows + fused) + bank + search


def task_products(config: AGIConfig) -> int:
    """Parameters that multiply the keys of a segment, for the task tokens that attention reads."""
    memory = config.memory
    return memory.task_tokens * config.kv_heads * config.head_dim if memory.attends_tasks else 0


def task_vectors(config: AGIConfig) -> int:
    """Parameters of their places, slopes and scales."""
    memory = config.memory
    return config.kv_heads * (1 + 2 * memory.task_tokens) if memory.attends_tasks else 0


def task_writes(config: AGIConfig, *, length: int) -> float:
    """A token's share of the products at a segment's end, which read the last task tokens, too."""
    memory = config.memory
    assert memory.segment is not None
    segment = min(memory.segment, length)
    return 3 * task_products(config) * (segment + memory.task_tokens) / segment


def _gates(fusion: str | None, tiers: int) -> int:
    return tiers - 1 if fusion == "hierarchical" and tiers > 1 else tiers
