"""What the segment that is being decoded will leave behind once it is complete.

Axes: B batch, T new tokens, S tokens of a segment, H heads, E head features.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rtdlm.modules.memory.tokens import Tokens
from rtdlm.modules.primitives import where_rows


class Pending(NamedTuple):
    """What the segment that is being read will leave behind; place s is its token s."""

    key_BSHE: jax.Array
    value_BSHE: jax.Array
    label_BS: jax.Array
    """int32; 0 where nothing was read yet."""
    id_BS: jax.Array

    @classmethod
    def empty(cls, *shape: int, dtype: jnp.dtype) -> "Pending":
        """For `shape`: (layers,) batch, tokens of a segment, heads, features."""
        heads, ints = jnp.zeros(shape, dtype), jnp.zeros(shape[:-2], jnp.int32)
        return cls(heads, heads, ints, ints)

    def put(self, key_BTHE: jax.Array, value_BTHE: jax.Array, tokens: Tokens) -> "Pending":
        """With the tokens of one more call at their places."""
        slots = self.label_BS.shape[1]
        place_BT = jnp.where(tokens.counts_BT, tokens.place_BT, slots)
        rows_B1 = jnp.arange(place_BT.shape[0])[:, None]
        new = (key_BTHE, value_BTHE, tokens.label_BT, tokens.id_BT)
        return Pending(
            *(
                old.at[rows_B1, place_BT].set(x.astype(old.dtype), mode="drop")
                for old, x in zip(self, new, strict=True)
            )
        )

    def complete(self) -> jax.Array:
        """bool `[B]`; rows whose segment is read to its end: places fill in order."""
        return self.label_BS[:, -1] > 0

    def without(self, rows_B: jax.Array) -> "Pending":
        """The same with nothing read in these rows."""
        none_BS = jnp.zeros_like(self.label_BS)
        return self._replace(label_BS=where_rows(rows_B, none_BS, self.label_BS))
