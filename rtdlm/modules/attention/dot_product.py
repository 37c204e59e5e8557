"""Exact scaled dot-product attention over grouped heads, softmax in float32.

    y_t = sum_s softmax_s(q_t k_s / sqrt(E) where t may read s) v_s

The queries of a group lie side by side, so that each key-value head is one matrix product for all
its queries instead of a small one for each query head.

Axes: B batch, T query time, S key time, H heads, K key-value heads, G = H / K, E head features.
"""

import jax
import jax.numpy as jnp

MASKED = -1e30


def attend(
    query_BTHE: jax.Array, key_BSKE: jax.Array, value_BSKE: jax.Array, mask_BTS: jax.Array
) -> jax.Array:
    """`[B, T, H, E]`: what each query reads where `mask_BTS` is True; it must be True somewhere."""
    batch, length, heads, width = query_BTHE.shape
    slots, kv_heads = key_BSKE.shape[1:3]
    group = heads // kv_heads
    query = (query_BTHE * width**-0.5).reshape(batch, length, kv_heads, group, width)
    query_BKNE = jnp.einsum("BTKGE->BKGTE", query).reshape(batch, kv_heads, -1, width)
    scores_BKNS = jnp.einsum(
        "BKNE,BSKE->BKNS", query_BKNE, key_BSKE, preferred_element_type=jnp.float32
    )
    scores = scores_BKNS.reshape(batch, kv_heads, group, length, slots)
    scores = jnp.where(mask_BTS[:, None, None], scores, MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(value_BSKE.dtype)
    read_BKNE = jnp.einsum("BKNS,BSKE->BKNE", weights.reshape(scores_BKNS.shape), value_BSKE)
    read = read_BKNE.reshape(batch, kv_heads, group, length, width)
    return jnp.einsum("BKGTE->BTKGE", read).reshape(query_BTHE.shape)
