"""Attention of every query to a few whole blocks that it chose.

Instead of fetching k blocks for every query, pairs of a query and a block are sorted by block and
filled into tiles of C pairs that share one, so that a tile is one matrix product and a query moves,
not a block (`rtdlm.modules.primitives.tiling`). A query's k partial softmaxes are then joined as in
FlashAttention (arXiv 2205.14135).

Axes: R rows of keys, T time, G queries of a group, E features, M blocks, L tokens of a block, k
chosen blocks, J = T * k pairs, U tiles, S slots, F = G * E.
"""

import jax
import jax.numpy as jnp

from rtdlm.modules.attention.dot_product import MASKED
from rtdlm.modules.primitives import move, product, tile_pairs


def attend_chosen(
    query_RTGE: jax.Array, key_RMLE: jax.Array, value_RMLE: jax.Array, chosen_RTk: jax.Array
) -> jax.Array:
    """`[R, T, G, E]`: softmax attention over all tokens of the chosen blocks; zeros without any.

    Args:
        query_RTGE: scaled queries.
        key_RMLE: keys of every block.
        value_RMLE: values of every block.
        chosen_RTk: different blocks for each query; M is none.
    """
    rows, length, group, width = query_RTGE.shape
    blocks, num_chosen = key_RMLE.shape[1], chosen_RTk.shape[-1]
    tiling = tile_pairs(chosen_RTk, kinds=blocks)
    tiles = tiling.kind_RU.shape[1]
    query_RSF = move(query_RTGE.reshape(rows, length, -1), tiling.token_RS, tiling.slot_RJ)
    query_RUNE = query_RSF.reshape(rows, tiles, -1, width)
    key, value = (
        jnp.take_along_axis(x, tiling.kind_RU[:, :, None, None], axis=1)
        for x in (key_RMLE, value_RMLE)
    )
    scores = product(query_RUNE, jnp.swapaxes(key, -1, -2)).astype(jnp.float32)
    top = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
    weights = jnp.exp(scores - top)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    read = product(weights.astype(value.dtype), value).astype(jnp.float32)

    def back(x: jax.Array) -> jax.Array:
        x_RSF = x.reshape(rows, tiling.token_RS.shape[1], -1)
        moved = move(x_RSF, tiling.slot_RJ, tiling.pair_RS)
        return moved.reshape(rows, length, num_chosen, group, -1)

    some = (chosen_RTk < blocks)[..., None, None]
    top = jnp.where(some, back(top), MASKED)
    share = jnp.where(some, jnp.exp(top - jnp.max(top, axis=2, keepdims=True)), 0.0)
    joined = jnp.sum(share * back(read), axis=2)
    total = jnp.sum(share * back(total), axis=2)
    # Without any block both are zero.
    return (joined / jnp.where(total > 0.0, total, 1.0)).astype(query_RTGE.dtype)
