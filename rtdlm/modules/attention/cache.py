"""Keys and values of what was already read, as explicit state.

A cache is an argument and a result. Slot s of row b holds position s of that row, so rows of
different lengths share one batch: what a short row has written beyond its length is overwritten
before any query is allowed to read it (`cache_mask`).

Axes: B batch, S slots, K key-value heads, E head features.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class KVCache(NamedTuple):
    """One layer's keys and values; a stack of layers carries a leading axis more."""

    key_BSKE: jax.Array
    value_BSKE: jax.Array

    @classmethod
    def empty(cls, *shape: int, dtype: jnp.dtype | type = jnp.float32) -> "KVCache":
        """Zeros of `shape`, (layers,) batch, slots, key-value heads, head features."""
        return cls(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))

    def write(
        self, key_BTKE: jax.Array, value_BTKE: jax.Array, positions_BT: jax.Array
    ) -> "KVCache":
        """Stores new keys and values at each row's own positions; beyond the last slot drops."""
        rows = jnp.arange(positions_BT.shape[0])[:, None]
        place = (rows, positions_BT)
        return KVCache(
            self.key_BSKE.at[place].set(key_BTKE.astype(self.key_BSKE.dtype), mode="drop"),
            self.value_BSKE.at[place].set(value_BTKE.astype(self.value_BSKE.dtype), mode="drop"),
        )
