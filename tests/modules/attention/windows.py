"""Random inputs and slow references for the kinds of attention that have no table of scores."""

import jax
import jax.numpy as jnp
import numpy as np

Array = np.ndarray


def draw(
    *, batch: int = 2, length: int = 37, heads: int = 4, kv_heads: int = 2, width: int = 8
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Queries, keys and values in float32."""
    rng = np.random.default_rng(length)
    shapes = [(batch, length, count, width) for count in (heads, kv_heads, kv_heads)]
    query, key, value = (
        jax.device_put(rng.normal(size=shape).astype(np.float32)) for shape in shapes
    )
    return query, key, value


def packed(batch: int, length: int) -> jax.Array:
    """Documents of uneven lengths, other ones in each row, and padding at the end."""
    rng = np.random.default_rng(batch)
    rows = np.cumsum(rng.random((batch, length)) < 0.12, axis=1) + 1
    rows[-1, length - length // 8 :] = 0
    return jnp.asarray(rows, jnp.int32)


def window_mask(segment_ids: jax.Array, window: int, sinks: int = 0) -> jax.Array:
    """True where query t may read key s, one pair at a time."""
    segments = np.asarray(segment_ids)
    batch, length = segments.shape
    mask = np.zeros((batch, length, length), bool)
    for b, t, s in np.ndindex(mask.shape):
        near = t < s + window or s - np.argmax(segments[b] == segments[b, s]) < sinks
        mask[b, t, s] = s <= t and near and segments[b, s] == segments[b, t]
    return jnp.asarray(mask)
