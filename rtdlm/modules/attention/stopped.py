"""Keys and values of tokens some of which have stopped: those keep what they had.

Where a block is run again and again on its own result, a token that has stopped is read as it was
when it stopped. This form is for whole rows in training; decoding keeps a `KVCache` a step.

Axes: B batch, T time, K key-value heads, E head features.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class StoppedCache(NamedTuple):
    """One layer's keys and values after the last step."""

    key_BSKE: jax.Array
    value_BSKE: jax.Array
    stopped_BS: jax.Array
    """bool; tokens that nothing is written for."""

    @classmethod
    def empty(cls, *shape: int, dtype: jnp.dtype) -> "StoppedCache":
        """Of tokens that are all still to run, for `shape`: batch, tokens, heads, features."""
        zeros = jnp.zeros(shape, dtype)
        return cls(zeros, zeros, jnp.zeros(shape[:2], bool))

    def write(
        self, key_BTKE: jax.Array, value_BTKE: jax.Array, positions_BT: jax.Array
    ) -> "StoppedCache":
        """With the keys and values of all tokens that have not stopped; they are whole rows."""
        del positions_BT
        stopped = self.stopped_BS[..., None, None]
        return self._replace(
            key_BSKE=jnp.where(stopped, self.key_BSKE, key_BTKE),
            value_BSKE=jnp.where(stopped, self.value_BSKE, value_BTKE),
        )
