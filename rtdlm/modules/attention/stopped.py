"""Keys and values of tokens some of which have stopped: those keep what they had.

Where a block is run again and again on its own result, a token that has stopped is read as it was
when it stopped. This form is for whole rows; decoding keeps a `KVCache` a step.

Axes: B batch, T new tokens, C those of a call, S tokens of a row, K key-value heads, E head
features.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rtdlm.modules.attention.cache import KVCache


class StoppedCache(NamedTuple):
    """One layer's keys and values after the last step."""

    kv: KVCache
    stopped_BS: jax.Array
    """bool; tokens that nothing is written for."""
    token_BC: jax.Array | None = None
    """int32; places in the row of a call's tokens, none of which has stopped; S where there is
    none. None where calls are of whole rows."""

    @classmethod
    def empty(cls, *shape: int, dtype: jnp.dtype) -> "StoppedCache":
        """Of tokens that are all still to run, for `shape`: batch, tokens, heads, features."""
        return cls(KVCache.empty(*shape, dtype=dtype), jnp.zeros(shape[:2], bool))

    @property
    def key_BSKE(self) -> jax.Array:
        """The keys, token by token."""
        return self.kv.key_BSKE

    @property
    def value_BSKE(self) -> jax.Array:
        """The values, token by token."""
        return self.kv.value_BSKE

    def write(
        self, key_BTKE: jax.Array, value_BTKE: jax.Array, positions_BT: jax.Array
    ) -> "StoppedCache":
        """With the keys and values of all tokens that have not stopped."""
        del positions_BT
        if self.token_BC is not None:
            return self._replace(kv=self.kv.write(key_BTKE, value_BTKE, self.token_BC))
        stopped_B11S = self.stopped_BS[:, None, None]
        new_key_BKES, new_value_BKSE = jnp.moveaxis(key_BTKE, 1, 3), jnp.swapaxes(value_BTKE, 1, 2)
        kv = KVCache(
            jnp.where(stopped_B11S, self.kv.key_BKES, new_key_BKES),
            jnp.where(jnp.moveaxis(stopped_B11S, 3, 2), self.kv.value_BKSE, new_value_BKSE),
        )
        return self._replace(kv=kv)
