"""Keys and values of the tokens that spiked, side by side: the cache of spiking attention.

The slots of a row and head are taken in turn, by the tokens that spike. What stands beyond the
count is no part of the cache and is overwritten. Zeros are the empty cache.

Axes: B batch, T new tokens, S slots, K key-value heads, R = B * K rows, E head features.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rtdlm.modules.attention.compacted import Keys, slots_for


class SpikeCache(NamedTuple):
    """One layer's spikes; a stack of layers carries a leading axis more."""

    key_BKSE: jax.Array
    value_BKSE: jax.Array
    count_BK: jax.Array
    """int32; slots that are taken."""

    @classmethod
    def empty(cls, *shape: int, dtype: jnp.dtype) -> "SpikeCache":
        """Nothing, in `shape`: (layers,) batch, tokens, key-value heads, head features."""
        *rows, tokens, heads, features = shape
        slots = (*rows, heads, slots_for(tokens), features)
        count = jnp.zeros((*rows, heads), jnp.int32)
        return cls(jnp.zeros(slots, dtype), jnp.zeros(slots, dtype), count)

    def write(
        self,
        key_BTKE: jax.Array,
        value_BTKE: jax.Array,
        spikes_BTK: jax.Array,
        counts_BT: jax.Array,
    ) -> tuple["SpikeCache", jax.Array]:
        """Stores the tokens that spike; those with `counts_BT` False, the last, do not stay.

        Also returns `[B, T, K]`: the slots that are taken once each token is stored.
        """
        end_BTK = self.count_BK[:, None] + jnp.cumsum(spikes_BTK.astype(jnp.int32), axis=1)
        slot_BTK = jnp.where(spikes_BTK, end_BTK - 1, self.key_BKSE.shape[2])
        batch, _, heads = spikes_BTK.shape
        row, head = jnp.arange(batch)[:, None, None], jnp.arange(heads)[None, None]

        def put(old: jax.Array, new: jax.Array) -> jax.Array:
            return old.at[row, head, slot_BTK].set(new.astype(old.dtype), mode="drop")

        stays_BTK = spikes_BTK & counts_BT[..., None]
        count_BK = self.count_BK + jnp.sum(stays_BTK.astype(jnp.int32), axis=1)
        after = SpikeCache(put(self.key_BKSE, key_BTKE), put(self.value_BKSE, value_BTKE), count_BK)
        return after, end_BTK

    def keys(self, dtype: jnp.dtype) -> Keys:
        """All slots, row by row, in the format `dtype`."""
        key, value = (
            x.reshape(-1, *x.shape[2:]).astype(dtype) for x in (self.key_BKSE, self.value_BKSE)
        )
        return Keys(key, value)
