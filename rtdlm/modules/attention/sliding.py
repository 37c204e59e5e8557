"""Causal attention to the last `window` tokens, in time and memory linear in the row's length.

    y_t = sum_s softmax_s(q_t k_s / sqrt(E)) v_s,   t - window < s <= t, s in t's own document

(Longformer, arXiv 2004.05150; Mistral, arXiv 2310.06825), and with attention sinks the document's
first tokens, see `reach`. The row is cut into blocks of C queries; a block reads the C keys beside
it, the P >= window - 1 before them and its sinks. One block is computed after another, so that its
scores stay in the processor's cache, and the backward pass computes them again from the saved
normaliser (FlashAttention, arXiv 2205.14135) instead of keeping them.

Both operands of every product have the input's format and its result is float32, which is what
reaches a CPU's bfloat16 units. The backward pass multiplies by the transposes of small arrays,
made beforehand, and never by the transpose of the scores, which XLA for CPUs does slowly.

On a TPU a kernel does all of this, where it serves and there are no sinks: see `splash`.

Axes: B batch, T time, H heads, K key-value heads, G = H / K, R = B * K rows of keys, E head
features, I blocks, C queries of a block, N = G * C, P keys before a block, S its keys.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rtdlm.modules.attention.dot_product import MASKED
from rtdlm.modules.attention.mask import first_tokens
from rtdlm.modules.attention.reach import (
    NO_SEGMENT,
    Plan,
    Reach,
    make_plan,
    reach,
    round_up,
    sink_places,
    take_sinks,
)
from rtdlm.modules.attention.scoring import PLAIN, Scoring
from rtdlm.modules.attention.splash import attend_splash, splash_serves
from rtdlm.modules.primitives import dot, from_chunks, narrow, to_chunks

BLOCK = 128
"""Queries of a block; smaller ones read fewer keys in vain, and make smaller products."""


def attend_window(
    query_BTHE: jax.Array,
    key_BTKE: jax.Array,
    value_BTKE: jax.Array,
    segment_ids_BT: jax.Array,
    *,
    window: int,
    block: int = BLOCK,
    sinks: int = 0,
    scoring: Scoring = PLAIN,
) -> jax.Array:
    """What each query reads of itself, the `window` - 1 tokens before it and the sinks.

    Args:
        query_BTHE: queries; H is a multiple of K.
        key_BTKE: keys of the same row.
        value_BTKE: values of the same row.
        segment_ids_BT: int32 document of each token, at least 0; only its own is read.
        window: tokens read, at least 1; more than T is all of them.
        block: queries computed at a time, a matter of speed alone.
        sinks: first tokens of a document that all of it reads, too.
        scoring: how a query and a key become a score.

    Returns:
        `[B, T, H, E]` in the input's format.
    """
    if not sinks and splash_serves(query_BTHE, scoring):
        return attend_splash(
            query_BTHE, key_BTKE, value_BTKE, segment_ids_BT, window=window, scoring=scoring
        )
    length, dtype = query_BTHE.shape[1], query_BTHE.dtype
    plan = make_plan(length, window=window, block=block, sinks=sinks, scoring=scoring)
    spare = round_up(length, plan.block) - length

    def pad(x: jax.Array, value: int = 0) -> jax.Array:
        return jnp.pad(x, ((0, 0), (0, spare)) + ((0, 0),) * (x.ndim - 2), constant_values=value)

    query = pad(query_BTHE * jnp.asarray(scoring.scale_for(query_BTHE.shape[-1]), dtype))
    segments = pad(segment_ids_BT, NO_SEGMENT)
    sink_BIN = sink_places(plan, first_tokens(segments))
    apart = _Apart(*(take_sinks(x, sink_BIN) for x in (key_BTKE, value_BTKE)))
    return _attend(plan, query, pad(key_BTKE), pad(value_BTKE), apart, segments)[:, :length]


def keys_computed(length: int, *, window: int, block: int = BLOCK, sinks: int = 0) -> int:
    """Keys that `attend_window` multiplies each of `length` queries by, rounded down.

    A block reads all its keys for all its queries, and the last may be filled up: the mean is
    min(T, window) + sinks + C, but for roundings.
    """
    plan = make_plan(length, window=window, block=block, sinks=sinks)
    return plan.keys * round_up(length, plan.block) // length


class _Apart(NamedTuple):
    """Keys and values of the sinks of each block; none without sinks."""

    key_IRNE: jax.Array
    value_IRNE: jax.Array


def _padded_rows(x_BTKE: jax.Array, before: int) -> jax.Array:
    """`[R, P + T, E]`, zeros first."""
    batch, length, kv_heads, width = x_BTKE.shape
    x_RTE = jnp.swapaxes(x_BTKE, 1, 2).reshape(batch * kv_heads, length, width)
    nothing = jnp.zeros((batch * kv_heads, before, width), x_BTKE.dtype)
    return jnp.concatenate([nothing, x_RTE], axis=1)


def _scores(
    plan: Plan, query_RNE: jax.Array, key_RSE: jax.Array, near: Reach
) -> tuple[jax.Array, jax.Array]:
    """Scores as they are compared, and as they were before the mask and what distance takes."""
    batch, block, keys = near.mask_IBCS.shape
    bounded_RNS = plan.scoring.bound(dot("RNE,RSE->RNS", query_RNE, key_RSE))
    scores = bounded_RNS.reshape(batch, -1, query_RNE.shape[1] // block, block, keys)
    back_BCS = None
    if near.place_IBS is not None:
        back_BCS = jnp.arange(block)[None, :, None] - near.place_IBS[:, None]
    scores = plan.scoring.lower(scores, back_BCS)
    scores = jnp.where(near.mask_IBCS[:, None, None], scores, MASKED)
    return scores.reshape(bounded_RNS.shape), bounded_RNS


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(
    plan: Plan,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    apart: _Apart,
    segments: jax.Array,
) -> jax.Array:
    return _forward(plan, query, key, value, apart, segments)[0]


class _Saved(NamedTuple):
    """What the backward pass needs; `normaliser` is log sum exp of each query's scores."""

    query_IRNE: jax.Array
    key_BTKE: jax.Array
    value_BTKE: jax.Array
    apart: _Apart
    segment_ids_BT: jax.Array
    read_IRNE: jax.Array
    normaliser_IRN: jax.Array


def _forward(
    plan: Plan,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    apart: _Apart,
    segments: jax.Array,
) -> tuple[jax.Array, _Saved]:
    query_IRNE = to_chunks(query, key.shape[2], plan.block)
    keys, values = _padded_rows(key, plan.before), _padded_rows(value, plan.before)

    def tile(
        start: jax.Array, given: tuple[jax.Array, _Apart, Reach]
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        query_RNE, sinks, near = given
        key_RSE = _block_keys(plan, keys, start, sinks.key_IRNE)
        value_RSE = _block_keys(plan, values, start, sinks.value_IRNE)
        scores_RNS, _ = _scores(plan, query_RNE, key_RSE, near)
        top_RN1 = jnp.max(scores_RNS, axis=-1, keepdims=True)
        weights_RNS = jnp.exp(scores_RNS - top_RN1)
        total_RN1 = jnp.sum(weights_RNS, axis=-1, keepdims=True)
        read_RNE = dot("RNS,RSE->RNE", narrow(weights_RNS, value.dtype), value_RSE) / total_RN1
        normaliser_RN1 = top_RN1 + jnp.log(total_RN1)
        return start + plan.block, (narrow(read_RNE, query.dtype), normaliser_RN1[..., 0])

    given = (query_IRNE, apart, reach(plan, segments))
    _, (read_IRNE, normaliser_IRN) = jax.lax.scan(tile, jnp.int32(0), given)
    saved = _Saved(query_IRNE, key, value, apart, segments, read_IRNE, normaliser_IRN)
    return from_chunks(read_IRNE, query.shape[0], plan.block), saved


def _block_keys(plan: Plan, keys: jax.Array, start: jax.Array, sinks_RNE: jax.Array) -> jax.Array:
    """`[R, S, E]`: the sinks and the span of the block that begins at `start`."""
    span = jax.lax.dynamic_slice_in_dim(keys, start, plan.span, axis=1)
    return jnp.concatenate([sinks_RNE, span], axis=1) if plan.apart else span


class _Tile(NamedTuple):
    """A block's inputs to the backward pass, or those of all blocks stacked."""

    query_RNE: jax.Array
    query_REN: jax.Array
    change_RNE: jax.Array
    change_REN: jax.Array
    read_RNE: jax.Array
    normaliser_RN: jax.Array
    apart: _Apart
    near: Reach


def _backward(
    plan: Plan, saved: _Saved, change_BTHE: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, _Apart, None]:
    key, value, query_IRNE = saved.key_BTKE, saved.value_BTKE, saved.query_IRNE
    keys, values = _padded_rows(key, plan.before), _padded_rows(value, plan.before)
    change_IRNE = to_chunks(change_BTHE, key.shape[2], plan.block)
    # The barrier keeps the transposes out of the products.
    query_IREN, change_IREN = jax.lax.optimization_barrier(
        (jnp.swapaxes(query_IRNE, -1, -2), jnp.swapaxes(change_IRNE, -1, -2))
    )

    def tile(
        carry: tuple[jax.Array, jax.Array], given: _Tile
    ) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array, jax.Array]]:
        start, open_REP = carry
        key_RSE = _block_keys(plan, keys, start, given.apart.key_IRNE)
        value_RSE = _block_keys(plan, values, start, given.apart.value_IRNE)
        change_query, change_keys = _tile_gradient(plan, given, key_RSE, value_RSE)
        change_sinks, change_span = jnp.split(change_keys, [plan.apart], axis=-1)
        # The first C keys of the span are read by no later block: theirs is complete.
        total = change_span + jnp.pad(open_REP, ((0, 0),) * 3 + ((0, plan.block),))
        closed_REC = total[..., : plan.block]
        return (start + plan.block, total[..., plan.block :]), (
            change_query,
            closed_REC,
            change_sinks,
        )

    rows, width = query_IRNE.shape[1], query_IRNE.shape[-1]
    opened = jnp.zeros((2, rows, width, plan.before), jnp.float32)
    stacked = _Tile(
        query_IRNE, query_IREN, change_IRNE, change_IREN,
        saved.read_IRNE, saved.normaliser_IRN, saved.apart, reach(plan, saved.segment_ids_BT),
    )  # fmt: skip
    (_, opened), (change_query, closed, sinks) = jax.lax.scan(tile, (jnp.int32(0), opened), stacked)
    change_key, change_value = (
        _collect(closed[:, side], opened[side], key, plan) for side in range(2)
    )
    change_query_BTHE = from_chunks(change_query, key.shape[0], plan.block)
    change_apart = _Apart(
        *(narrow(jnp.swapaxes(sinks[:, side], -1, -2), key.dtype) for side in range(2))
    )
    return change_query_BTHE, change_key, change_value, change_apart, None


def _tile_gradient(
    plan: Plan, given: _Tile, key_RSE: jax.Array, value_RSE: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Gradients of a block's queries `[R, N, E]`, and of its keys and values `[2, R, E, S]`."""
    dtype = given.query_RNE.dtype
    scores_RNS, bounded_RNS = _scores(plan, given.query_RNE, key_RSE, given.near)
    weights_RNS = jnp.exp(scores_RNS - given.normaliser_RN[..., None])
    change_weights = dot("RNE,RSE->RNS", given.change_RNE, value_RSE)
    product = given.change_RNE.astype(jnp.float32) * given.read_RNE.astype(jnp.float32)
    mean_RN1 = jnp.sum(product, axis=-1, keepdims=True)
    change_scores = weights_RNS * (change_weights - mean_RN1)
    if plan.scoring.soft_cap is not None:
        change_scores *= plan.scoring.slope(bounded_RNS)
    change_scores = narrow(change_scores, dtype)
    change_query = narrow(dot("RNS,RSE->RNE", change_scores, key_RSE), dtype)
    change_key = dot("REN,RNS->RES", given.query_REN, change_scores)
    change_value = dot("REN,RNS->RES", given.change_REN, narrow(weights_RNS, dtype))
    return change_query, jnp.stack([change_key, change_value])


def _collect(
    closed_IREC: jax.Array, open_REP: jax.Array, like_BTKE: jax.Array, plan: Plan
) -> jax.Array:
    """The blocks' gradients as one array like the keys, without the keys before the row."""
    batch, length, kv_heads, width = like_BTKE.shape
    closed = jnp.moveaxis(closed_IREC, 0, 2).reshape(batch * kv_heads, width, length)
    whole_REV = jnp.concatenate([closed, open_REP], axis=-1)[..., plan.before :]
    whole = narrow(whole_REV, like_BTKE.dtype).reshape(batch, kv_heads, width, length)
    return jnp.einsum("BKET->BTKE", whole)


_attend.defvjp(_forward, _backward)
