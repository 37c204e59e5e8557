"""Keys and values of what was already read, as explicit state.

A cache is an argument and a result. Slot s of row b holds position s of that row, so rows of
different lengths share one batch: what a short row has written beyond its length is overwritten
before any query is allowed to read it (`cache_mask`).

Arrays lie as the two products of attention read them, so that decoding copies nothing: a head's
keys are the columns of one matrix, its values the rows of another.

Axes: B batch, T new tokens, S slots, K key-value heads, E head features.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class KVCache(NamedTuple):
    """One layer's keys and values; a stack of layers carries a leading axis more."""

    key_BKES: jax.Array
    value_BKSE: jax.Array

    @classmethod
    def empty(cls, *shape: int, dtype: jnp.dtype | type = jnp.float32) -> "KVCache":
        """Zeros of `shape`, (layers,) batch, slots, key-value heads, head features."""
        *rows, slots, heads, features = shape
        return cls(
            jnp.zeros((*rows, heads, features, slots), dtype),
            jnp.zeros((*rows, heads, slots, features), dtype),
        )

    @property
    def key_BSKE(self) -> jax.Array:
        """The keys, slot by slot."""
        return jnp.moveaxis(self.key_BKES, -1, -3)

    @property
    def value_BSKE(self) -> jax.Array:
        """The values, slot by slot."""
        return jnp.swapaxes(self.value_BKSE, -3, -2)

    def write(
        self, key_BTKE: jax.Array, value_BTKE: jax.Array, positions_BT: jax.Array
    ) -> "KVCache":
        """Stores new keys and values at each row's own positions; beyond the last slot drops."""
        key_BTKE = key_BTKE.astype(self.key_BKES.dtype)
        value_BTKE = value_BTKE.astype(self.value_BKSE.dtype)
        if positions_BT.shape[1] > 1:
            return self._scatter(key_BTKE, value_BTKE, positions_BT)
        return jax.lax.platform_dependent(
            self, key_BTKE, value_BTKE, positions_BT,
            cpu=KVCache._write_row_by_row, default=KVCache._scatter,
        )  # fmt: skip

    def _scatter(
        self, key_BTKE: jax.Array, value_BTKE: jax.Array, positions_BT: jax.Array
    ) -> "KVCache":
        rows = jnp.arange(positions_BT.shape[0])[:, None]
        return KVCache(
            self.key_BKES.at[rows, :, :, positions_BT].set(key_BTKE, mode="drop"),
            self.value_BKSE.at[rows, :, positions_BT].set(value_BTKE, mode="drop"),
        )

    def _write_row_by_row(
        self, key_B1KE: jax.Array, value_B1KE: jax.Array, positions_B1: jax.Array
    ) -> "KVCache":
        """`_scatter` of one token a row, in place.

        XLA for CPUs computes a lone update once for each of its readers, and copies the whole cache
        to do so; a loop whose length it cannot know it leaves alone.
        """
        slots = self.key_BKES.shape[-1]
        key_BKE1, value_BK1E = jnp.moveaxis(key_B1KE, 1, 3), jnp.swapaxes(value_B1KE, 1, 2)
        num_rows = jnp.sum((positions_B1 >= 0).astype(jnp.int32))

        def write(row: jax.Array, cache: KVCache) -> KVCache:
            slot = positions_B1[row, 0]

            def put(
                old: jax.Array, new: jax.Array, place: tuple[jax.Array | int, ...]
            ) -> jax.Array:
                new = jax.lax.dynamic_slice_in_dim(new, row, 1)
                kept = jax.lax.dynamic_slice(old, place, new.shape)
                new = jnp.where(slot < slots, new, kept)
                return jax.lax.dynamic_update_slice(old, new, place)

            return KVCache(
                put(cache.key_BKES, key_BKE1, (row, 0, 0, slot)),
                put(cache.value_BKSE, value_BK1E, (row, 0, slot, 0)),
            )

        return jax.lax.fori_loop(0, num_rows, write, self)
