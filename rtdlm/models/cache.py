"""What a model remembers of the rows that it decodes: one explicit argument and result.

Zeros are the empty cache. What attention keeps is up to its kind; everything else is what stood at
the row's last tokens, see `rtdlm.modules.primitives.look_back`.

Axes: B batch, J tokens back, S slots.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rtdlm.config import AGIConfig
from rtdlm.models.convs import States, conv_features
from rtdlm.models.layers import LayerPlan, segments
from rtdlm.models.memory import empty_pending, layer_memory
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
    graph: GraphCache | None = None
    """None where the layer has none."""
    quantum: QuantumCache | None = None
    """None where no states are kept."""


class InputCache(NamedTuple):
    """Memory of what stands before the layers."""

    recent_BJ: jax.Array | None
    """int32; the last tokens, oldest first, as id + 1, and 0 before the document. None without
    n-grams."""
    convs: States


class DecodeCache(NamedTuple):
    """The whole model's memory of a batch of rows."""

    loops: tuple[tuple[LayerCache, ...], ...]
    """Of every layer of a round, in every loop; see `rtdlm.models.layers`."""
    input: InputCache
    core: tuple[tuple[KVCache, ...], ...] | None = None
    """Of every layer of a controller's core, for each of its steps; None without one."""


def empty_cache(config: AGIConfig, batch_size: int, slots: int, *, dtype: jnp.dtype) -> DecodeCache:
    """The memory of `batch_size` rows before their first token, with room for `slots` tokens."""
    back = config.short_conv - 1
    convs = {
        place: jnp.zeros((batch_size, back, *shape), dtype)
        for place, shape in conv_features(config).items()
    }
    own = {place: convs.pop(place) for place in ("input",) if place in convs}
    # Attention keeps the tokens of a segment, and memory what is older.
    slots = slots if config.memory.segment is None else min(slots, config.memory.segment)
    rows = (batch_size, slots, config.kv_heads, config.head_dim)

    def layer(plan: LayerPlan, repeats: int) -> LayerCache:
        kind = KINDS[plan.attention](config.attention)
        stacked = {place: jnp.zeros((repeats, *x.shape), dtype) for place, x in convs.items()}
        taken = jnp.zeros((repeats, batch_size, slots), bool) if plan.depth else None
        memory = pending = None
        if plan.memory:
            memory = layer_memory(config, repeats, batch_size, dtype=dtype)
            pending = empty_pending(config, repeats, batch_size, dtype=dtype)
        graph = _empty_graph(config, plan, (repeats, *rows[:2]), dtype) if plan.graph else None
        kv = kind.empty_cache(repeats, *rows, dtype=dtype)
        quantum = _empty_quantum(config, (repeats, *rows[:2]), dtype) if plan.quantum else None
        return LayerCache(kv, stacked, taken, memory, pending, graph, quantum)

    loops = tuple(
        tuple(layer(plan, segment.repeats) for plan in segment.round)
        for segment in segments(config)
    )
    recent_BJ = None
    if config.ngram_reach:
        recent_BJ = jnp.zeros((batch_size, config.ngram_reach), jnp.int32)
    core = None
    if config.core_layers:
        layers = tuple(KVCache.empty(*rows, dtype=dtype) for _ in range(config.core_layers))
        core = (layers,) * config.controller.steps
    return DecodeCache(loops, InputCache(recent_BJ, own), core)


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
