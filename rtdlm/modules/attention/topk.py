"""Attention to a window, to the first tokens of a document, and to the best keys beyond.

    y_t = sum_s softmax_s(q_t k_s / sqrt(E)) v_s,   s in window(t), first(g), or top k of the rest

Local and global tokens as in Longformer (arXiv 2004.05150), and exact top-k keys (arXiv 1912.11637)
of each query head, in one softmax. The choice has no gradient; the scores of what is chosen have.

Nothing is saved by it: to know the best keys a query scores all of them, so that time and memory
are those of dense attention and more. It tells what reading few keys costs a model, and what a
cheaper selection, as in `sparse`, could be worth at best.

Axes: B batch, T query time, S key time or slots, H heads, K key-value heads, G = H / K, E head
features, k chosen keys.
"""

import jax
import jax.numpy as jnp

from rtdlm.modules.attention.dot_product import MASKED
from rtdlm.modules.primitives import dot, largest


def attend_topk(
    query_BTHE: jax.Array,
    key_BSKE: jax.Array,
    value_BSKE: jax.Array,
    may_BTS: jax.Array,
    always_BTS: jax.Array,
    *,
    num_chosen: int,
) -> jax.Array:
    """`[B, T, H, E]`: what each query reads of the keys that it may read.

    Args:
        query_BTHE: queries; H is a multiple of K.
        key_BSKE: keys.
        value_BSKE: values.
        may_BTS: True where query t may read key s; somewhere for each query.
        always_BTS: those that are read in any case, a part of `may_BTS`.
        num_chosen: keys that a query chooses of the others, by score; all if there are fewer.
    """
    batch, length, heads, width = query_BTHE.shape
    kv_heads = key_BSKE.shape[2]
    query = query_BTHE * jnp.asarray(width**-0.5, query_BTHE.dtype)
    query_BTKGE = query.reshape(batch, length, kv_heads, heads // kv_heads, width)
    scores_BKGTS = dot("BTKGE,BSKE->BKGTS", query_BTKGE, key_BSKE)
    may, always = may_BTS[:, None, None], always_BTS[:, None, None]
    chosen = largest(jnp.where(may & ~always, scores_BKGTS, -jnp.inf), num_chosen)
    read = always | chosen
    weights = jax.nn.softmax(jnp.where(read, scores_BKGTS, MASKED), axis=-1)
    read_BTKGE = dot("BKGTS,BSKE->BTKGE", weights.astype(value_BSKE.dtype), value_BSKE)
    return read_BTKGE.reshape(query_BTHE.shape).astype(query_BTHE.dtype)
