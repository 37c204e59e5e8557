"""Who may read whom, as boolean tables: True where query t may read key s.

Axes: B batch, T query time, S key time.
"""

import jax
import jax.numpy as jnp


def causal_mask(segment_ids_BT: jax.Array) -> jax.Array:
    """`[B, T, T]`: the same or an earlier place in the same packed document.

    Places are places in the row. Segment 0 is padding: it reads only padding, so that every query
    has something to read and the softmax stays finite.
    """
    length = segment_ids_BT.shape[1]
    earlier_TS = jnp.tril(jnp.ones((length, length), bool))
    same_BTS = segment_ids_BT[:, :, None] == segment_ids_BT[:, None, :]
    return same_BTS & earlier_TS[None]


def cache_mask(positions_BT: jax.Array, *, slots: int) -> jax.Array:
    """`[B, T, S]` over a cache's slots: slot s holds position s, written once s is reached."""
    return jnp.arange(slots)[None, None, :] <= positions_BT[:, :, None]
