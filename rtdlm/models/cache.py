"""What a model remembers of the rows that it decodes: one explicit argument and result.

Zeros are the empty cache. What attention keeps is up to its kind; everything else is what stood at
the row's last tokens, see `rtdlm.modules.primitives.look_back`.

Axes: B batch, J tokens back.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rtdlm.config import AGIConfig
from rtdlm.models.convs import States, conv_features
from rtdlm.modules.attention import KINDS, Cache


class LayerCache(NamedTuple):
    """One layer's memory; in a stack every array has a leading axis of layers."""

    kv: Cache
    convs: States


class InputCache(NamedTuple):
    """Memory of what stands before the layers."""

    recent_BJ: jax.Array | None
    """int32; the last tokens, oldest first, as id + 1, and 0 before the document. None without
    n-grams."""
    convs: States


class DecodeCache(NamedTuple):
    """The whole model's memory of a batch of rows."""

    layers: LayerCache
    """With a leading axis of layers."""
    input: InputCache


def empty_cache(config: AGIConfig, batch_size: int, slots: int, *, dtype: jnp.dtype) -> DecodeCache:
    """The memory of `batch_size` rows before their first token, with room for `slots` tokens."""
    layers, back = config.num_layers, config.short_conv - 1
    convs = {
        place: jnp.zeros((batch_size, back, *shape), dtype)
        for place, shape in conv_features(config).items()
    }
    own = {place: convs.pop(place) for place in ("input",) if place in convs}
    stacked = {place: jnp.zeros((layers, *x.shape), dtype) for place, x in convs.items()}
    kv_shape = (layers, batch_size, slots, config.kv_heads, config.head_dim)
    kv = KINDS[config.attention_type](config.attention).empty_cache(*kv_shape, dtype=dtype)
    recent_BJ = None
    if config.ngram.orders:
        recent_BJ = jnp.zeros((batch_size, max(config.ngram.orders) - 1), jnp.int32)
    return DecodeCache(LayerCache(kv, stacked), InputCache(recent_BJ, own))
