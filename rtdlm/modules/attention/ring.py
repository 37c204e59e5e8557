"""Keys and values of the last W tokens: the cache of sliding-window attention.

Position p of a row stands in slot p % W until position p + W takes its place. Each slot knows which
position it holds, so that a query can tell what it may read; zeros are the empty cache.

Axes: B batch, T new tokens, W slots, K key-value heads, H heads, E head features.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rtdlm.modules.attention.cache import KVCache
from rtdlm.modules.attention.dot_product import attend
from rtdlm.modules.attention.scoring import PLAIN, Scoring


class RingCache(NamedTuple):
    """One layer's last W tokens; a stack of layers carries a leading axis more."""

    kv: KVCache
    holds_BW: jax.Array
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
    ) -> "RingCache":
        """Stores each row's first `lengths_B[b]` tokens, of which the last W stay."""
        slots = self.holds_BW.shape[-1]
        left_BT = lengths_B[:, None] - jnp.arange(positions_BT.shape[1])[None]
        stays = (left_BT > 0) & (left_BT <= slots)
        # The cache drops what lies beyond its last slot.
        slot_BT = jnp.where(stays, positions_BT % slots, slots)
        rows = jnp.arange(positions_BT.shape[0])[:, None]
        return RingCache(
            self.kv.write(key_BTKE, value_BTKE, slot_BT),
            self.holds_BW.at[rows, slot_BT].set(positions_BT + 1, mode="drop"),
        )

    def mask(self, positions_BT: jax.Array) -> jax.Array:
        """`[B, T, W]`: slots that hold one of the W - 1 positions before a query's, or its own."""
        back_BTW = positions_BT[:, :, None] - (self.holds_BW[:, None] - 1)
        return (self.holds_BW[:, None] > 0) & (back_BTW >= 0) & (back_BTW < self.holds_BW.shape[-1])


def attend_ring(
    query_BTHE: jax.Array,
    key_BTKE: jax.Array,
    value_BTKE: jax.Array,
    *,
    positions_BT: jax.Array,
    lengths_B: jax.Array,
    cache: RingCache,
    scoring: Scoring = PLAIN,
) -> tuple[jax.Array, RingCache]:
    """What T more tokens of each row read of themselves and the W - 1 tokens before them.

    Args:
        query_BTHE: queries; what those beyond a row's length read means nothing.
        key_BTKE: keys of the same tokens.
        value_BTKE: values of the same tokens.
        positions_BT: int32; consecutive in each row, and its first follows what the cache holds.
        lengths_B: int32 tokens of each row that count, the first ones.
        cache: the W tokens before; W is the window.
        scoring: how a query and a key become a score.
    """
    dtype = query_BTHE.dtype
    after = cache.write(key_BTKE, value_BTKE, positions_BT, lengths_B)
    if positions_BT.shape[1] == 1:
        # A token takes the place of one that it may not read.
        key, value = after.kv.key_BSKE.astype(dtype), after.kv.value_BSKE.astype(dtype)
        mask_BTW = after.mask(positions_BT)
        # A row that stands still may find nothing.
        return attend(query_BTHE, key, value, mask_BTW, scoring), after
    key = jnp.concatenate([cache.kv.key_BSKE.astype(dtype), key_BTKE], axis=1)
    value = jnp.concatenate([cache.kv.value_BSKE.astype(dtype), value_BTKE], axis=1)
    # What stands in the cache came before the first of these tokens.
    held_B1W = cache.mask(positions_BT) & (cache.holds_BW <= positions_BT[:, :1])[:, None]
    back_BTT = positions_BT[:, :, None] - positions_BT[:, None]
    near_BTT = (back_BTT >= 0) & (back_BTT < cache.holds_BW.shape[-1])
    mask = jnp.concatenate([held_B1W, near_BTT], axis=-1)
    return attend(query_BTHE, key, value, mask, scoring), after
