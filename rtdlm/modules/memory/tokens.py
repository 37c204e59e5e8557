"""Which tokens of a segment a memory is for.

Axes: B batch, T time, S tokens of a segment.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Tokens(NamedTuple):
    """The tokens of one call, all of one segment a row; the same for every layer."""

    label_BT: jax.Array
    """int32; the document of each, 0 where there is no token."""
    counts_BT: jax.Array
    """bool; False for what leaves no trace: padding, and tokens that are read in vain."""
    id_BT: jax.Array
    """int32; which of the vocabulary."""
    place_BT: jax.Array
    """int32; place within the segment."""

    @property
    def filled_BT(self) -> jax.Array:
        """Labels in which no token belongs to what stood before it, or else to what comes first."""
        time_T = jnp.arange(self.label_BT.shape[1])[None]
        newest_BT = jax.lax.cummax(jnp.where(self.counts_BT, time_T, 0), axis=1)
        return jnp.take_along_axis(self.label_BT, newest_BT, axis=1)

    def merged(self) -> "Tokens":
        """The same with all documents of a row taken for one."""
        return self._replace(label_BT=(self.label_BT > 0).astype(jnp.int32))


def last_label(label_BT: jax.Array, counts_BT: jax.Array, before_B: jax.Array) -> jax.Array:
    """int32 `[B]`: the document of each row's last token; `before_B` where it has none."""
    time_T = jnp.arange(1, label_BT.shape[1] + 1)[None]
    newest_B = jnp.max(jnp.where(counts_BT, time_T, 0), axis=1)
    own_B = jnp.take_along_axis(label_BT, jnp.maximum(newest_B - 1, 0)[:, None], axis=1)[:, 0]
    return jnp.where(newest_B > 0, own_B, before_B)
