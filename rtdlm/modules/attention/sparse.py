"""Native sparse attention (arXiv 2502.11089): summaries of blocks, a few blocks, a window.

    y_t = g_t1 attend(q_t, block means) + g_t2 attend(q_t, top blocks) + g_t3 attend(q_t, window)

The weights of a query's attention to the block means, summed over the heads of a group, choose its
top blocks: the choice itself has no gradient, but the means that make it are trained by the first
branch. A block is L tokens of the query's own document, all in its past; one that the window covers
is not chosen. Costs T (T / L + k L + W) instead of T^2.

Axes: B batch, T time, H heads, K key-value heads, G = H / K, R = B * K rows, E head features, M
blocks, L tokens of a block, k chosen blocks, W window.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rtdlm.modules.attention.blocks import Blocks, find_blocks
from rtdlm.modules.attention.chosen import attend_chosen
from rtdlm.modules.attention.dot_product import MASKED
from rtdlm.modules.attention.sliding import attend_window
from rtdlm.modules.primitives import move, product


class Branches(NamedTuple):
    """What each query reads through each branch, `[B, T, H, E]`, and its blocks."""

    means: jax.Array
    chosen: jax.Array
    window: jax.Array
    blocks_RTk: jax.Array
    """Chosen blocks of each query and key-value head; M where fewer than k can be chosen."""

    def gated(self, gates_BTHN: jax.Array) -> jax.Array:
        """`[B, T, H, E]`: the sum of the three, weighed in the order above."""
        stacked = jnp.stack([self.means, self.chosen, self.window], axis=-1)
        return jnp.sum(stacked * gates_BTHN[..., None, :].astype(stacked.dtype), axis=-1)


NUM_BRANCHES = 3


def sparse_branches(
    query_BTHE: jax.Array,
    key_BTKE: jax.Array,
    value_BTKE: jax.Array,
    segment_ids_BT: jax.Array,
    *,
    block: int,
    num_chosen: int,
    window: int,
) -> Branches:
    """The three branches, each an attention with its own softmax.

    Args:
        query_BTHE: queries; H is a multiple of K.
        key_BTKE: keys of the same row.
        value_BTKE: values of the same row.
        segment_ids_BT: int32 document of each token, at least 0.
        block: tokens of a block, at most `window`, so that every token is within reach.
        num_chosen: blocks that a query reads in full.
        window: tokens that it reads in any case, itself included.
    """
    assert block <= window, (block, window)
    batch, length, heads, width = query_BTHE.shape
    kv_heads = key_BTKE.shape[2]
    near = attend_window(query_BTHE, key_BTKE, value_BTKE, segment_ids_BT, window=window)
    if length < block:
        nothing = jnp.zeros_like(query_BTHE)
        chosen_RTk = jnp.zeros((batch * kv_heads, length, 0), jnp.int32)
        return Branches(nothing, nothing, near, chosen_RTk)
    where = find_blocks(segment_ids_BT, block)
    key_RMLE, value_RMLE = (_blocks(x, where, block) for x in (key_BTKE, value_BTKE))
    query = query_BTHE * jnp.asarray(width**-0.5, query_BTHE.dtype)
    query = jnp.einsum(
        "BTKGE->BKTGE", query.reshape(batch, length, kv_heads, heads // kv_heads, width)
    )
    query_RTGE = query.reshape(batch * kv_heads, length, -1, width)
    time_T = jnp.arange(length)
    past_RTM, far_RTM = (
        jnp.repeat(_past(where, time_T - back), kv_heads, axis=0)
        for back in (block - 1, max(window, block))
    )
    means, weights_RTM = attend_means(
        query_RTGE, mean_block(key_RMLE), mean_block(value_RMLE), past_RTM
    )
    chosen_RTk = choose_blocks(weights_RTM, far_RTM, num_chosen=num_chosen)
    read = attend_chosen(query_RTGE, key_RMLE, value_RMLE, chosen_RTk)

    def rows(x_RTGE: jax.Array) -> jax.Array:
        x = x_RTGE.reshape(batch, kv_heads, length, -1, width)
        return jnp.swapaxes(x, 1, 2).reshape(query_BTHE.shape)

    return Branches(rows(means), rows(read), near, chosen_RTk)


def _blocks(x_BTKE: jax.Array, where: Blocks, block: int) -> jax.Array:
    """`[R, M, L, E]`; zeros where there is no block."""
    batch, length, kv_heads, width = x_BTKE.shape
    moved = move(x_BTKE.reshape(batch, length, -1), where.token_BX, where.place_BT)
    moved = jnp.swapaxes(moved.reshape(batch, -1, kv_heads, width), 1, 2)
    return moved.reshape(batch * kv_heads, -1, block, width)


def mean_block(x_RMLE: jax.Array) -> jax.Array:
    """`[R, M, E]`: what stands for each block, in the format of its tokens."""
    return jnp.mean(x_RMLE.astype(jnp.float32), axis=2).astype(x_RMLE.dtype)


def attend_means(
    query_RTGE: jax.Array, key_RME: jax.Array, value_RME: jax.Array, past_RTM: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Attention to block means `[R, T, G, E]`, and its weights summed over a group `[R, T, M]`.

    Zeros for a query without any block in `past_RTM`. Queries are scaled.
    """
    rows, length, group, width = query_RTGE.shape
    dtype = query_RTGE.dtype
    query_RNE = query_RTGE.reshape(rows, -1, width)
    scores = product(query_RNE, jnp.swapaxes(key_RME, -1, -2)).astype(jnp.float32)
    scores_RTGM = scores.reshape(rows, length, group, -1)
    scores_RTGM = jnp.where(past_RTM[:, :, None], scores_RTGM, MASKED)
    weights = jax.nn.softmax(scores_RTGM, axis=-1)
    weights = jnp.where(past_RTM[:, :, None], weights, 0.0)
    read = product(weights.reshape(rows, length * group, -1).astype(dtype), value_RME)
    return read.reshape(query_RTGE.shape), jnp.sum(weights, axis=2)


def choose_blocks(weights_RTM: jax.Array, far_RTM: jax.Array, *, num_chosen: int) -> jax.Array:
    """`[R, T, k]`: the blocks of largest weight within `far_RTM`; M where there are fewer."""
    count = weights_RTM.shape[-1]
    weights = jnp.where(far_RTM, jax.lax.stop_gradient(weights_RTM), -1.0)
    top, chosen = jax.lax.top_k(weights, min(num_chosen, count))
    return jnp.where(top >= 0.0, chosen, count)


def _past(where: Blocks, latest_T: jax.Array) -> jax.Array:
    """`[B, T, M]`: blocks of the token's document that start at `latest_T` or before."""
    same = where.document_BM[:, None] == where.document_BT[:, :, None]
    return same & (where.start_BM[:, None] <= latest_T[None, :, None])
