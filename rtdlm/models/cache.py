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
from rtdlm.modules.attention import KINDS, Cache


class LayerCache(NamedTuple):
    """One layer's memory; in a loop every array has a leading axis, one entry a round."""

    kv: Cache
    convs: States
    taken_BS: jax.Array | None = None
    """bool; slots of tokens that the layer worked on. None where it works on all."""


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


def empty_cache(config: AGIConfig, batch_size: int, slots: int, *, dtype: jnp.dtype) -> DecodeCache:
    """The memory of `batch_size` rows before their first token, with room for `slots` tokens."""
    back = config.short_conv - 1
    convs = {
        place: jnp.zeros((batch_size, back, *shape), dtype)
        for place, shape in conv_features(config).items()
    }
    own = {place: convs.pop(place) for place in ("input",) if place in convs}
    rows = (batch_size, slots, config.kv_heads, config.head_dim)

    def layer(plan: LayerPlan, repeats: int) -> LayerCache:
        kind = KINDS[plan.attention](config.attention)
        stacked = {place: jnp.zeros((repeats, *x.shape), dtype) for place, x in convs.items()}
        taken = jnp.zeros((repeats, batch_size, slots), bool) if plan.depth else None
        return LayerCache(kind.empty_cache(repeats, *rows, dtype=dtype), stacked, taken)

    loops = tuple(
        tuple(layer(plan, segment.repeats) for plan in segment.round)
        for segment in segments(config)
    )
    recent_BJ = None
    if config.ngram.orders:
        recent_BJ = jnp.zeros((batch_size, max(config.ngram.orders) - 1), jnp.int32)
    return DecodeCache(loops, InputCache(recent_BJ, own))
