"""What a model remembers of the rows that it decodes: one explicit argument and result.

Zeros are the empty cache. What attention keeps is up to its kind; everything else is what stood at
the row's last tokens, see `rtdlm.modules.primitives.look_back`.

Axes: B batch, J tokens back, S slots.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rtdlm.config import AGIConfig
from rtdlm.models.convs import States
from rtdlm.models.layers import LayerPlan, segments
from rtdlm.models.memory import (
    InputCache,
    empty_input,
    empty_pending,
    layer_convs,
    layer_memory,
)
from rtdlm.modules.attention import KINDS, Cache, KVCache
from rtdlm.modules.graph import GraphCache
from rtdlm.modules.memory import LayerMemory, Pending
from rtdlm.modules.quantum import QuantumCache


class LayerCache(NamedTuple):
    """One layer's memory; in a loop every array has a leading axis, one entry a round."""

    kv: Cache
    convs: States
    taken_BS: jax.Array | None = None
    """bool; slots of tokens that the layer worked on. None where it works on all."""
    memory: LayerMemory | None = None
    """Of earlier segments; None where the layer has none."""
    pending: Pending | None = None
    """What the segment that is being read will leave behind."""
    attended: Pending | None = None
    """The same of attention's own keys and values; None where attention reads no memory."""
    graph: GraphCache | None = None
    """None where the layer has none."""
    quantum: QuantumCache | None = None
    """None where no states are kept."""


class DecodeCache(NamedTuple):
    """The whole model's memory of a batch of rows."""

    loops: tuple[tuple[LayerCache, ...], ...]
    """Of every layer of a round, in every loop; see `rtdlm.models.layers`."""
    input: InputCache
    core: tuple[tuple[KVCache, ...], ...] | None = None
    """Of every layer of a controller's core, for each of its steps; None without one."""


def empty_cache(config: AGIConfig, batch_size: int, slots: int, *, dtype: jnp.dtype) -> DecodeCache:
    """The memory of `batch_size` rows before their first token, with room for `slots` tokens."""
    # Attention keeps the tokens of a segment, and memory what is older.
    slots = slots if config.memory.segment is None else min(slots, config.memory.segment)
    rows = (batch_size, slots, config.kv_heads, config.head_dim)

    def layer(plan: LayerPlan, repeats: int) -> LayerCache:
        kind = KINDS[plan.attention](config.attention)
        # They go on where attention does, and are then of its memory.
        goes_on = plan.window and config.memory.is_attended
        convs = {} if goes_on else layer_convs(config, repeats, batch_size, dtype=dtype)
        taken = jnp.zeros((repeats, batch_size, slots), bool) if plan.depth else None
        memory = layer_memory(config, plan, repeats, batch_size, dtype=dtype)
        pending = attended = None
        if plan.memory:
            pending = empty_pending(config, config.memory_heads, repeats, batch_size, dtype=dtype)
        if plan.window:
            attended = empty_pending(config, config.kv_heads, repeats, batch_size, dtype=dtype)
        graph = _empty_graph(config, plan, (repeats, *rows[:2]), dtype) if plan.graph else None
        kv = kind.empty_cache(repeats, *rows, dtype=dtype)
        quantum = _empty_quantum(config, (repeats, *rows[:2]), dtype) if plan.quantum else None
        return LayerCache(kv, convs, taken, memory, pending, attended, graph, quantum)

    loops = tuple(
        tuple(layer(plan, segment.repeats) for plan in segment.round)
        for segment in segments(config)
    )
    core = None
    if config.core_layers:
        layers = tuple(KVCache.empty(*rows, dtype=dtype) for _ in range(config.core_layers))
        core = (layers,) * config.controller.steps
    return DecodeCache(loops, empty_input(config, batch_size, dtype=dtype), core)


def _empty_graph(
    config: AGIConfig, plan: LayerPlan, shape: tuple[int, ...], dtype: jnp.dtype
) -> GraphCache:
    graph = config.graph
    experts = config.experts.num_experts if plan.experts and graph.routes else 0
    features = graph.width(config.d_model)
    return GraphCache.empty(graph, *shape, features=features, experts=experts, dtype=dtype)


def _empty_quantum(
    config: AGIConfig, shape: tuple[int, ...], dtype: jnp.dtype
) -> QuantumCache | None:
    if config.quantum.form != "attention":
        return None
    return QuantumCache.empty(config.quantum, *shape, features=config.head_dim, dtype=dtype)
