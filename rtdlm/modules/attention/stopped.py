"""Keys and values of tokens some of which have stopped: those keep what they had.

Where a block is run again and again on its own result, a token that has stopped is read as it was
when it stopped. This form is for whole rows; decoding keeps a `KVCache` a step.

Axes: B batch, T new tokens, S tokens of a row, K key-value heads, E head features.
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
    place_BS: jax.Array | None = None
    """int32; where a token that is written for stands among those of a call. None where calls are
    of whole rows."""

    @classmethod
    def empty(cls, *shape: int, dtype: jnp.dtype) -> "StoppedCache":
        """Of tokens that are all still to run, for `shape`: batch, tokens, heads, features."""
        zeros = jnp.zeros(shape, dtype)
        return cls(zeros, zeros, jnp.zeros(shape[:2], bool))

    def write(
        self, key_BTKE: jax.Array, value_BTKE: jax.Array, positions_BT: jax.Array
    ) -> "StoppedCache":
        """With the keys and values of all tokens that have not stopped."""
        del positions_BT
        return self._replace(
            key_BSKE=self._written(self.key_BSKE, key_BTKE),
            value_BSKE=self._written(self.value_BSKE, value_BTKE),
        )

    def _written(self, old_BSKE: jax.Array, new_BTKE: jax.Array) -> jax.Array:
        if self.place_BS is not None:
            # A gather of whole rows: XLA for CPUs scatters one after another.
            place_BS = jnp.minimum(self.place_BS, new_BTKE.shape[1] - 1)
            new_BTKE = jax.vmap(lambda new, place: new[place])(new_BTKE, place_BS)
        return jnp.where(self.stopped_BS[..., None, None], old_BSKE, new_BTKE)
