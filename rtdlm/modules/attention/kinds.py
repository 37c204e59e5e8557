"""Kinds of attention by `attention_type`: how queries, keys and values become what is read.

A kind works on what `GroupedQueryAttention` projects: within packed rows, and with a cache that
continues rows one after another. Another kind is one class and one line of `KINDS`.

Axes: B batch, T query time, S key time, H heads, K key-value heads, E head features.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from rtdlm.config import AttentionConfig
from rtdlm.modules.attention.cache import KVCache
from rtdlm.modules.attention.dot_product import attend, attend_causally
from rtdlm.modules.attention.mask import cache_mask, causal_mask
from rtdlm.modules.attention.ring import RingCache, attend_ring
from rtdlm.modules.attention.scoring import PLAIN, Scoring
from rtdlm.modules.attention.sliding import attend_window, keys_computed

Cache = KVCache | RingCache
"""One layer's memory of earlier tokens."""


class Heads(NamedTuple):
    """What a token asks, is asked for, and gives."""

    query_BTHE: jax.Array
    key_BTKE: jax.Array
    value_BTKE: jax.Array


class Rows(NamedTuple):
    """How the tokens of one call relate; the same for every layer, so made once."""

    positions_BT: jax.Array
    """int32; within the document."""
    mask_BTS: jax.Array | None = None
    """True where query t may read key s of the row, or slot s of the cache; None if the kind makes
    no such table."""
    segment_ids_BT: jax.Array | None = None
    """int32; None with a cache, whose rows are one document each."""
    lengths_B: jax.Array | None = None
    """int32; tokens of each row that count, the first ones. None without a cache."""


class Kind(Protocol):
    """One kind of attention."""

    def packed(self, positions_BT: jax.Array, segment_ids_BT: jax.Array) -> Rows:
        """Rows of packed documents."""

    def continued(self, positions_BT: jax.Array, lengths_B: jax.Array, cache: Any) -> Rows:
        """Rows that continue what `cache` holds; it may have a leading axis of layers."""

    def read(self, heads: Heads, rows: Rows) -> jax.Array:
        """`[B, T, H, E]`: what each query reads within its document."""

    def extend(self, heads: Heads, rows: Rows, cache: Any) -> tuple[jax.Array, Cache]:
        """The same with what `cache` holds, and the cache that now holds these tokens too."""

    def empty_cache(self, *shape: int, dtype: jnp.dtype) -> Cache:
        """Nothing, for `shape`: (layers,) batch, tokens, key-value heads, head features."""

    def keys_computed(self, length: int) -> int:
        """Keys that a query of a row of `length` tokens is multiplied by, which is its cost."""


@dataclass(frozen=True)
class Dense:
    """Every earlier token of the document: `mha`, `gqa` and `mqa`. O(T^2) time and memory."""

    scoring: Scoring = PLAIN

    def packed(self, positions_BT: jax.Array, segment_ids_BT: jax.Array) -> Rows:
        return Rows(positions_BT, causal_mask(segment_ids_BT), segment_ids_BT)

    def continued(self, positions_BT: jax.Array, lengths_B: jax.Array, cache: KVCache) -> Rows:
        mask_BTS = cache_mask(positions_BT, slots=cache.key_BKES.shape[-1])
        return Rows(positions_BT, mask_BTS, lengths_B=lengths_B)

    def read(self, heads: Heads, rows: Rows) -> jax.Array:
        assert rows.mask_BTS is not None
        return attend_causally(*heads, rows.mask_BTS, self.scoring)

    def extend(self, heads: Heads, rows: Rows, cache: KVCache) -> tuple[jax.Array, KVCache]:
        assert rows.mask_BTS is not None
        dtype = heads.query_BTHE.dtype
        cache = cache.write(heads.key_BTKE, heads.value_BTKE, rows.positions_BT)
        key_BSKE, value_BSKE = cache.key_BSKE.astype(dtype), cache.value_BSKE.astype(dtype)
        read = attend(heads.query_BTHE, key_BSKE, value_BSKE, rows.mask_BTS, self.scoring)
        return read, cache

    def empty_cache(self, *shape: int, dtype: jnp.dtype) -> KVCache:
        return KVCache.empty(*shape, dtype=dtype)

    def keys_computed(self, length: int) -> int:
        return length


@dataclass(frozen=True)
class Sliding:
    """The last `window` tokens of the document. O(T window) time, O(T) memory, O(1) to decode."""

    window: int
    scoring: Scoring = PLAIN

    def packed(self, positions_BT: jax.Array, segment_ids_BT: jax.Array) -> Rows:
        return Rows(positions_BT, segment_ids_BT=segment_ids_BT)

    def continued(self, positions_BT: jax.Array, lengths_B: jax.Array, cache: RingCache) -> Rows:
        del cache  # Its slots say themselves what they hold.
        return Rows(positions_BT, lengths_B=lengths_B)

    def read(self, heads: Heads, rows: Rows) -> jax.Array:
        assert rows.segment_ids_BT is not None
        return attend_window(*heads, rows.segment_ids_BT, window=self.window, scoring=self.scoring)

    def extend(self, heads: Heads, rows: Rows, cache: RingCache) -> tuple[jax.Array, RingCache]:
        assert rows.lengths_B is not None
        return attend_ring(
            *heads, positions_BT=rows.positions_BT, lengths_B=rows.lengths_B, cache=cache,
            scoring=self.scoring,
        )  # fmt: skip

    def empty_cache(self, *shape: int, dtype: jnp.dtype) -> RingCache:
        *rows, tokens, heads, features = shape
        return RingCache.empty(*rows, min(tokens, self.window), heads, features, dtype=dtype)

    def keys_computed(self, length: int) -> int:
        return keys_computed(length, window=self.window)


def _scoring(config: AttentionConfig) -> Scoring:
    return Scoring(config.scale, config.soft_cap)


DENSE = Dense()
KINDS: dict[str, Callable[[AttentionConfig], Kind]] = {
    "mha": lambda config: Dense(_scoring(config)),
    "gqa": lambda config: Dense(_scoring(config)),
    "mqa": lambda config: Dense(_scoring(config)),
    "sliding": lambda config: Sliding(config.reach, _scoring(config)),
}
"""`attention_type` -> the kind that a config's section describes."""
