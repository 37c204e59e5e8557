"""Keys and values of the last tokens and of the first: the cache of sliding-window attention.

The first n positions, the sinks, stand in the first n slots for good; of the other W slots position
p has number (p - n) % W until position p + W takes its place. Each slot knows which position it
holds, so that a query can tell what it may read; zeros are the empty cache.

Axes: B batch, T new tokens, S = n + W slots, K key-value heads, H heads, E head features.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rtdlm.modules.attention.alibi import Places
from rtdlm.modules.attention.cache import KVCache
from rtdlm.modules.attention.dot_product import attend
from rtdlm.modules.attention.scoring import PLAIN, Scoring


class RingCache(NamedTuple):
    """One layer's first and last tokens; a stack of layers carries a leading axis more."""

    kv: KVCache
    holds_BS: jax.Array
    """int32; one more than the position that the slot holds, 0 while it is empty."""

    @classmethod
    def empty(cls, *shape: int, dtype: jnp.dtype | type = jnp.float32) -> "RingCache":
        """Nothing, in `shape`: (layers,) batch, slots, key-value heads, head features."""
        return cls(KVCache.empty(*shape, dtype=dtype), jnp.zeros(shape[:-2], jnp.int32))

    def write(
        self,
        key_BTKE: jax.Array,
        value_BTKE: jax.Array,
        positions_BT: jax.Array,
        lengths_B: jax.Array,
        *,
        sinks: int = 0,
    ) -> "RingCache":
        """Stores each row's first `lengths_B[b]` tokens, of which the sinks and the last W stay."""
        slots = self.holds_BS.shape[-1]
        # A cache with room for no more than the sinks is never asked for another position.
        window = max(slots - sinks, 1)
        left_BT = lengths_B[:, None] - jnp.arange(positions_BT.shape[1])[None]
        sink = positions_BT < sinks
        stays = (left_BT > 0) & (sink | (left_BT <= window))
        slot_BT = jnp.where(sink, positions_BT, sinks + (positions_BT - sinks) % window)
        # The cache drops what lies beyond its last slot.
        slot_BT = jnp.where(stays, slot_BT, slots)
        rows = jnp.arange(positions_BT.shape[0])[:, None]
        return RingCache(
            self.kv.write(key_BTKE, value_BTKE, slot_BT),
            self.holds_BS.at[rows, slot_BT].set(positions_BT + 1, mode="drop"),
        )

    def mask(self, positions_BT: jax.Array, *, sinks: int = 0) -> jax.Array:
        """`[B, T, S]`: slots that hold what a query at a position may read, its own included."""
        window = self.holds_BS.shape[-1] - sinks
        near = _near(positions_BT, self.positions_BS, window=window, sinks=sinks)
        return (self.holds_BS[:, None] > 0) & near

    @property
    def positions_BS(self) -> jax.Array:
        """The position that each slot holds, -1 while it is empty."""
        return self.holds_BS - 1


def _near(
    positions_BT: jax.Array, positions_BS: jax.Array, *, window: int, sinks: int
) -> jax.Array:
    """`[B, T, S]`: s is t or one of the W - 1 positions before it, or before it and a sink."""
    back_BTS = positions_BT[:, :, None] - positions_BS[:, None]
    return (back_BTS >= 0) & ((back_BTS < window) | (positions_BS < sinks)[:, None])


def attend_ring(
    query_BTHE: jax.Array,
    key_BTKE: jax.Array,
    value_BTKE: jax.Array,
    *,
    positions_BT: jax.Array,
    lengths_B: jax.Array,
    cache: RingCache,
    sinks: int = 0,
    scoring: Scoring = PLAIN,
) -> tuple[jax.Array, RingCache]:
    """What T more tokens of each row read of themselves, the W - 1 tokens before and the sinks.

    Args:
        query_BTHE: queries; what those beyond a row's length read means nothing.
        key_BTKE: keys of the same tokens.
        value_BTKE: values of the same tokens.
        positions_BT: int32; consecutive in each row, and its first follows what the cache holds.
        lengths_B: int32 tokens of each row that count, the first ones.
        cache: the tokens before; S is the sinks and the window.
        sinks: first tokens that stay, n.
        scoring: how a query and a key become a score.
    """
    dtype = query_BTHE.dtype
    after = cache.write(key_BTKE, value_BTKE, positions_BT, lengths_B, sinks=sinks)
    if positions_BT.shape[1] == 1:
        # A token takes the place of one that it may not read.
        key, value = after.kv.key_BSKE.astype(dtype), after.kv.value_BSKE.astype(dtype)
        mask = after.mask(positions_BT, sinks=sinks)
        places = Places(positions_BT, after.positions_BS)
        # A row that stands still may find nothing.
        return attend(query_BTHE, key, value, mask, scoring, places), after
    key = jnp.concatenate([cache.kv.key_BSKE.astype(dtype), key_BTKE], axis=1)
    value = jnp.concatenate([cache.kv.value_BSKE.astype(dtype), value_BTKE], axis=1)
    # What stands in the cache came before the first of these tokens.
    earlier_B1S = (cache.positions_BS < positions_BT[:, :1])[:, None]
    held = cache.mask(positions_BT, sinks=sinks) & earlier_B1S
    window = cache.holds_BS.shape[-1] - sinks
    new_BTT = _near(positions_BT, positions_BT, window=window, sinks=sinks)
    mask = jnp.concatenate([held, new_BTT], axis=-1)
    keys_BS = jnp.concatenate([cache.positions_BS, positions_BT], axis=1)
    return attend(query_BTHE, key, value, mask, scoring, Places(positions_BT, keys_BS)), after
