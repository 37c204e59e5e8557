"""Causal attention to the last `window` tokens, in time and memory linear in the row's length.

    y_t = sum_s softmax_s(q_t k_s / sqrt(E)) v_s,   t - window < s <= t, s in t's own document

(Longformer, arXiv 2004.05150; Mistral, arXiv 2310.06825.) The row is cut into blocks of C queries;
a block reads the C keys beside it and the P >= window - 1 before them. One block is computed after
another, so that its scores stay in the processor's cache, and the backward pass computes them
again from the saved normaliser (FlashAttention, arXiv 2205.14135) instead of keeping them.

Both operands of every product have the input's format and its result is float32, which is what
reaches a CPU's bfloat16 units. The backward pass multiplies by the transposes of small arrays,
made beforehand, and never by the transpose of the scores, which XLA for CPUs does slowly.

Axes: B batch, T time, H heads, K key-value heads, G = H / K, R = B * K rows of keys, E head
features, I blocks, C queries of a block, N = G * C, P keys before a block, S = P + C its keys.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rtdlm.modules.attention.chunks import from_chunks, to_chunks
from rtdlm.modules.attention.dot_product import MASKED
from rtdlm.modules.attention.scoring import PLAIN, Scoring
from rtdlm.modules.primitives import dot, narrow

BLOCK = 128
"""Queries of a block; smaller ones read fewer keys in vain, and make smaller products."""
_LANES = 16
_NO_SEGMENT = -1


def attend_window(
    query_BTHE: jax.Array,
    key_BTKE: jax.Array,
    value_BTKE: jax.Array,
    segment_ids_BT: jax.Array,
    *,
    window: int,
    block: int = BLOCK,
    scoring: Scoring = PLAIN,
) -> jax.Array:
    """What each query reads of itself and the `window` - 1 tokens before it.

    Args:
        query_BTHE: queries; H is a multiple of K.
        key_BTKE: keys of the same row.
        value_BTKE: values of the same row.
        segment_ids_BT: int32 document of each token, at least 0; only its own is read.
        window: tokens read, at least 1; more than T is all of them.
        block: queries computed at a time, a matter of speed alone.
        scoring: how a query and a key become a score.

    Returns:
        `[B, T, H, E]` in the input's format.
    """
    length = query_BTHE.shape[1]
    block = min(block, _round_up(length, _LANES))
    spare = _round_up(length, block) - length

    def pad(x: jax.Array, value: int = 0) -> jax.Array:
        return jnp.pad(x, ((0, 0), (0, spare)) + ((0, 0),) * (x.ndim - 2), constant_values=value)

    width = query_BTHE.shape[-1]
    plan = _Plan(min(window, length), block, scoring)
    read = _attend(
        plan,
        pad(query_BTHE * jnp.asarray(scoring.scale_for(width), query_BTHE.dtype)),
        pad(key_BTKE),
        pad(value_BTKE),
        pad(segment_ids_BT, _NO_SEGMENT),
    )
    return read[:, :length]


def keys_computed(length: int, *, window: int, block: int = BLOCK) -> int:
    """Keys that `attend_window` multiplies each of `length` queries by, rounded down.

    A block reads all its keys for all its queries, and the last may be filled up: the mean is
    min(T, window) + C, but for roundings.
    """
    block = min(block, _round_up(length, _LANES))
    keys = _Plan(min(window, length), block).keys
    return keys * _round_up(length, block) // length


class _Plan(NamedTuple):
    """What is static: tokens read, queries of a block, and how they score."""

    window: int
    block: int
    scoring: Scoring = PLAIN

    @property
    def before(self) -> int:
        return _round_up(self.window - 1, _LANES)

    @property
    def keys(self) -> int:
        return self.before + self.block


def _round_up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def _padded_rows(x_BTKE: jax.Array, before: int) -> jax.Array:
    """`[R, P + T, E]`, zeros first."""
    batch, length, kv_heads, width = x_BTKE.shape
    x_RTE = jnp.swapaxes(x_BTKE, 1, 2).reshape(batch * kv_heads, length, width)
    nothing = jnp.zeros((batch * kv_heads, before, width), x_BTKE.dtype)
    return jnp.concatenate([nothing, x_RTE], axis=1)


def _masks(plan: _Plan, segment_ids_BT: jax.Array) -> jax.Array:
    """`[I, B, C, S]`, made beforehand: cut out in the loop they would keep it from vectorising."""
    place_C = jnp.arange(plan.block)[:, None]
    place_S = jnp.arange(plan.keys)[None] - plan.before
    near_CS = (place_S <= place_C) & (place_C - place_S < plan.window)
    padded = jnp.pad(segment_ids_BT, ((0, 0), (plan.before, 0)), constant_values=_NO_SEGMENT)
    starts = range(0, segment_ids_BT.shape[1], plan.block)
    segments_IBS = jnp.stack([padded[:, start : start + plan.keys] for start in starts])
    own_IBC = segments_IBS[:, :, plan.before :]
    return near_CS[None, None] & (own_IBC[..., None] == segments_IBS[:, :, None])


def _scores(
    scoring: Scoring, query_RNE: jax.Array, key_RSE: jax.Array, mask_BCS: jax.Array
) -> jax.Array:
    batch, block, keys = mask_BCS.shape
    scores_RNS = scoring.bound(dot("RNE,RSE->RNS", query_RNE, key_RSE))
    scores = scores_RNS.reshape(batch, -1, query_RNE.shape[1] // block, block, keys)
    return jnp.where(mask_BCS[:, None, None], scores, MASKED).reshape(scores_RNS.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(
    plan: _Plan, query: jax.Array, key: jax.Array, value: jax.Array, segments: jax.Array
) -> jax.Array:
    return _forward(plan, query, key, value, segments)[0]


class _Saved(NamedTuple):
    """What the backward pass needs; `normaliser` is log sum exp of each query's scores."""

    query_IRNE: jax.Array
    key_BTKE: jax.Array
    value_BTKE: jax.Array
    segment_ids_BT: jax.Array
    read_IRNE: jax.Array
    normaliser_IRN: jax.Array


def _forward(
    plan: _Plan, query: jax.Array, key: jax.Array, value: jax.Array, segments: jax.Array
) -> tuple[jax.Array, _Saved]:
    query_IRNE = to_chunks(query, key.shape[2], plan.block)
    keys, values = _padded_rows(key, plan.before), _padded_rows(value, plan.before)

    def tile(
        start: jax.Array, given: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        query_RNE, mask_BCS = given
        key_RSE = jax.lax.dynamic_slice_in_dim(keys, start, plan.keys, axis=1)
        value_RSE = jax.lax.dynamic_slice_in_dim(values, start, plan.keys, axis=1)
        scores_RNS = _scores(plan.scoring, query_RNE, key_RSE, mask_BCS)
        top_RN1 = jnp.max(scores_RNS, axis=-1, keepdims=True)
        weights_RNS = jnp.exp(scores_RNS - top_RN1)
        total_RN1 = jnp.sum(weights_RNS, axis=-1, keepdims=True)
        read_RNE = dot("RNS,RSE->RNE", narrow(weights_RNS, value.dtype), value_RSE) / total_RN1
        normaliser_RN1 = top_RN1 + jnp.log(total_RN1)
        return start + plan.block, (narrow(read_RNE, query.dtype), normaliser_RN1[..., 0])

    given = (query_IRNE, _masks(plan, segments))
    _, (read_IRNE, normaliser_IRN) = jax.lax.scan(tile, jnp.int32(0), given)
    saved = _Saved(query_IRNE, key, value, segments, read_IRNE, normaliser_IRN)
    return from_chunks(read_IRNE, query.shape[0], plan.block), saved


class _Tile(NamedTuple):
    """A block's inputs to the backward pass, or those of all blocks stacked."""

    query_RNE: jax.Array
    query_REN: jax.Array
    change_RNE: jax.Array
    change_REN: jax.Array
    read_RNE: jax.Array
    normaliser_RN: jax.Array
    mask_BCS: jax.Array


def _backward(
    plan: _Plan, saved: _Saved, change_BTHE: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, None]:
    key, value, query_IRNE = saved.key_BTKE, saved.value_BTKE, saved.query_IRNE
    keys, values = _padded_rows(key, plan.before), _padded_rows(value, plan.before)
    change_IRNE = to_chunks(change_BTHE, key.shape[2], plan.block)
    # The barrier keeps the transposes out of the products.
    query_IREN, change_IREN = jax.lax.optimization_barrier(
        (jnp.swapaxes(query_IRNE, -1, -2), jnp.swapaxes(change_IRNE, -1, -2))
    )

    def tile(
        carry: tuple[jax.Array, jax.Array], given: _Tile
    ) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
        start, open_REP = carry
        key_RSE = jax.lax.dynamic_slice_in_dim(keys, start, plan.keys, axis=1)
        value_RSE = jax.lax.dynamic_slice_in_dim(values, start, plan.keys, axis=1)
        change_query, change_window = _tile_gradient(plan.scoring, given, key_RSE, value_RSE)
        # The first C keys of the window are read by no later block: theirs is complete.
        total = change_window + jnp.pad(open_REP, ((0, 0),) * 3 + ((0, plan.block),))
        return (start + plan.block, total[..., plan.block :]), (
            change_query,
            total[..., : plan.block],
        )

    rows, width = query_IRNE.shape[1], query_IRNE.shape[-1]
    opened = jnp.zeros((2, rows, width, plan.before), jnp.float32)
    stacked = _Tile(
        query_IRNE, query_IREN, change_IRNE, change_IREN,
        saved.read_IRNE, saved.normaliser_IRN, _masks(plan, saved.segment_ids_BT),
    )  # fmt: skip
    (_, opened), (change_query, closed) = jax.lax.scan(tile, (jnp.int32(0), opened), stacked)
    change_key, change_value = (
        _collect(closed[:, side], opened[side], key, plan) for side in range(2)
    )
    change_query_BTHE = from_chunks(change_query, key.shape[0], plan.block)
    return change_query_BTHE, change_key, change_value, None


def _tile_gradient(
    scoring: Scoring, given: _Tile, key_RSE: jax.Array, value_RSE: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Gradients of a block's queries `[R, N, E]`, and of its keys and values `[2, R, E, S]`."""
    dtype = given.query_RNE.dtype
    scores_RNS = _scores(scoring, given.query_RNE, key_RSE, given.mask_BCS)
    weights_RNS = jnp.exp(scores_RNS - given.normaliser_RN[..., None])
    change_weights = dot("RNE,RSE->RNS", given.change_RNE, value_RSE)
    product = given.change_RNE.astype(jnp.float32) * given.read_RNE.astype(jnp.float32)
    mean_RN1 = jnp.sum(product, axis=-1, keepdims=True)
    change_scores = weights_RNS * (change_weights - mean_RN1)
    if scoring.soft_cap is not None:
        change_scores *= scoring.slope(scores_RNS)
    change_scores = narrow(change_scores, dtype)
    change_query = narrow(dot("RNS,RSE->RNE", change_scores, key_RSE), dtype)
    change_key = dot("REN,RNS->RES", given.query_REN, change_scores)
    change_value = dot("REN,RNS->RES", given.change_REN, narrow(weights_RNS, dtype))
    return change_query, jnp.stack([change_key, change_value])


def _collect(
    closed_IREC: jax.Array, open_REP: jax.Array, like_BTKE: jax.Array, plan: _Plan
) -> jax.Array:
    """The blocks' gradients as one array like the keys, without the keys before the row."""
    batch, length, kv_heads, width = like_BTKE.shape
    closed = jnp.moveaxis(closed_IREC, 0, 2).reshape(batch * kv_heads, width, length)
    whole_REV = jnp.concatenate([closed, open_REP], axis=-1)[..., plan.before :]
    whole = narrow(whole_REV, like_BTKE.dtype).reshape(batch, kv_heads, width, length)
    return jnp.einsum("BKET->BTKE", whole)


_attend.defvjp(_forward, _backward)
