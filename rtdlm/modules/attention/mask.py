"""Who may read whom, as boolean tables: True where query t may read key s; where documents begin.

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


def document_begins(segment_ids_BT: jax.Array) -> jax.Array:
    """bool `[B, T]`: the first token of a packed document, wherever the segment changes."""
    before_BT = jnp.roll(segment_ids_BT, 1, axis=1)
    return (segment_ids_BT != before_BT).at[:, 0].set(True)


def first_tokens(segment_ids_BT: jax.Array) -> jax.Array:
    """int32 `[B, T]`: place in the row of the first token of each token's document."""
    time_1T = jnp.arange(segment_ids_BT.shape[1])[None]
    return jax.lax.cummax(jnp.where(document_begins(segment_ids_BT), time_1T, 0), axis=1)
