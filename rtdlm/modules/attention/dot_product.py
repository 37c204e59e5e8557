"""Exact scaled dot-product attention over grouped heads, softmax in float32.

    y_t = sum_s softmax_s(q_t k_s / sqrt(E) where t may read s) v_s

The queries of a group lie side by side, so that each key-value head is one matrix product for all
its queries instead of a small one for each query head. The gradient is written out, as in
FlashAttention (arXiv 2205.14135, appendix B.2) but with the weights kept instead of made again:

    dv = p^T dy / z     ds = p / z (dy v^T - sum_e dy y)     dq = ds k / sqrt(E)     dk = ds^T q

with p = exp(s - max s) and z = sum_s p; bounded scores multiply ds by their slope, and what lowers
far keys (ALiBi) has no gradient. Every product
has operands in the activations' format and float32 sums, and the rows of its left operand are what
is summed: see `primitives.product`. For that dv and dk are made as dy^T p and q^T ds, which turns
the narrow operand instead of the wide.

Axes: B batch, T query time, S key time, H heads, K key-value heads, G = H / K, E head features,
R = B K heads of keys, N = G T queries that share one.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rtdlm.modules.attention.accelerated import attend_fused, fused_attention_serves
from rtdlm.modules.attention.alibi import Places
from rtdlm.modules.attention.scoring import PLAIN, Scoring
from rtdlm.modules.primitives import dot, row_major

MASKED = -1e30
QUERY_BLOCK = 128
"""Queries whose keys are cut off together."""
MAX_BLOCKS = 8


def attend(
    query_BTHE: jax.Array,
    key_BSKE: jax.Array,
    value_BSKE: jax.Array,
    mask_BTS: jax.Array,
    scoring: Scoring = PLAIN,
    places: Places | None = None,
) -> jax.Array:
    """`[B, T, H, E]`: what each query reads where `mask_BTS` is True; it must be True somewhere.

    Keys and values are read as they lie, which is what decoding from a long cache needs. `places`
    are for scores that are lowered by distance.
    """
    if scoring == PLAIN and fused_attention_serves(query_BTHE, key_BSKE):
        return attend_fused(query_BTHE, key_BSKE, value_BSKE, mask_BTS, causal=False)
    batch, length, heads, width = query_BTHE.shape
    slots, kv_heads = key_BSKE.shape[1:3]
    query = _queries(query_BTHE * scoring.scale_for(width), kv_heads)
    query_BKNE = query.reshape(batch, kv_heads, -1, width)
    scores_BKNS = dot("BKNE,BSKE->BKNS", query_BKNE, key_BSKE)
    scores = scores_BKNS.reshape(batch, kv_heads, heads // kv_heads, length, slots)
    scores = _masked(scores, mask_BTS, scoring, places)
    # Divided by their sum after they are rounded and read: decoding rounds as training does.
    weights = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True))
    sums_BKN1 = jnp.sum(weights, axis=-1).reshape(*query_BKNE.shape[:3], 1)
    weights_BKNS = weights.reshape(scores_BKNS.shape).astype(value_BSKE.dtype)
    read_BKNE = dot("BKNS,BSKE->BKNE", weights_BKNS, value_BSKE) / sums_BKN1
    read = read_BKNE.astype(query_BTHE.dtype)
    return _rows(read.reshape(-1, *read.shape[2:]), query_BTHE.shape)


def attend_causally(
    query_BTHE: jax.Array,
    key_BSKE: jax.Array,
    value_BSKE: jax.Array,
    mask_BTS: jax.Array,
    scoring: Scoring = PLAIN,
    places: Places | None = None,
) -> jax.Array:
    """`attend` within a row, for a mask that is False above its diagonal; made for training.

    Keys may begin before the row, which has the last T of them; the diagonal is that of these.
    Queries go block by block, and a block's products leave out the keys that come after it: with n
    blocks, (n - 1) / 2n of all work within the row.
    """
    before = key_BSKE.shape[1] - query_BTHE.shape[1]
    if scoring == PLAIN and fused_attention_serves(query_BTHE, key_BSKE):
        return attend_fused(query_BTHE, key_BSKE, value_BSKE, mask_BTS, causal=before == 0)
    size = max(QUERY_BLOCK, -(-query_BTHE.shape[1] // MAX_BLOCKS))
    return _attend(scoring, size, query_BTHE, key_BSKE, value_BSKE, mask_BTS, places)


def _masked(
    scores_BKGTS: jax.Array, mask_BTS: jax.Array, scoring: Scoring, places: Places | None
) -> jax.Array:
    back_BTS = None if places is None else places.back_BTS
    scores = scoring.lower(scoring.bound(scores_BKGTS), back_BTS)
    return jnp.where(mask_BTS[:, None, None], scores, MASKED)


class _Block(NamedTuple):
    """What the gradient needs of a block of queries."""

    query_RNE: jax.Array
    weights_RNS: jax.Array
    sum_RN1: jax.Array
    read_RNE: jax.Array


class _Kept(NamedTuple):
    """What the gradient needs; the key-value heads and rows are one axis."""

    key_RSE: jax.Array
    value_RSE: jax.Array
    blocks: tuple[_Block, ...]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(
    scoring: Scoring,
    size: int,
    query_BTHE: jax.Array,
    key_BSKE: jax.Array,
    value_BSKE: jax.Array,
    mask_BTS: jax.Array,
    places: Places | None,
) -> jax.Array:
    return _forward(scoring, size, query_BTHE, key_BSKE, value_BSKE, mask_BTS, places)[0]


def _forward(
    scoring: Scoring,
    size: int,
    query_BTHE: jax.Array,
    key_BSKE: jax.Array,
    value_BSKE: jax.Array,
    mask_BTS: jax.Array,
    places: Places | None,
) -> tuple[jax.Array, _Kept]:
    length, slots = query_BTHE.shape[1], key_BSKE.shape[1]
    key, value = _keys(key_BSKE), _keys(value_BSKE)
    reads, blocks = [], []
    for start in range(0, length, size):
        rows = slice(start, min(start + size, length))
        seen = slice(slots - length + rows.stop)
        query, mask = query_BTHE[:, rows], mask_BTS[:, rows, seen]
        near = None if places is None else places.block(rows, seen)
        block = _read(scoring, query, key[:, seen], value[:, seen], mask, near)
        reads.append(_rows(block.read_RNE, query.shape))
        blocks.append(block)
    return _joined(reads), _Kept(key, value, tuple(blocks))


def _read(
    scoring: Scoring,
    query_BTHE: jax.Array,
    key_RSE: jax.Array,
    value_RSE: jax.Array,
    mask_BTS: jax.Array,
    places: Places | None,
) -> _Block:
    batch, length, _, width = query_BTHE.shape
    kv_heads, slots, dtype = len(key_RSE) // batch, key_RSE.shape[1], query_BTHE.dtype
    query = _queries(query_BTHE * jnp.asarray(scoring.scale_for(width), dtype), kv_heads)
    scores = dot("rne,rse->rns", query, key_RSE).reshape(batch, kv_heads, -1, length, slots)
    scores = _masked(scores, mask_BTS, scoring, places)
    weights = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True))
    sums = jnp.sum(weights, axis=-1, keepdims=True).reshape(*query.shape[:2], 1)
    weights = weights.reshape(*query.shape[:2], slots).astype(dtype)
    read = (dot("rns,rse->rne", weights, value_RSE) / sums).astype(dtype)
    return _Block(query, weights, sums, read)


class _Gradient(NamedTuple):
    """Of a block of queries, float32; keys and values turned."""

    query_RNE: jax.Array
    key_RES: jax.Array
    value_RES: jax.Array


def _backward(
    scoring: Scoring, size: int, kept: _Kept, dy_BTHE: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, None, None]:
    dtype, kv_heads = dy_BTHE.dtype, len(kept.key_RSE) // len(dy_BTHE)
    dqueries: list[jax.Array] = []
    before: _Gradient | None = None  # of blocks further down: of their keys, together
    for number in reversed(range(len(kept.blocks))):
        dy = dy_BTHE[:, number * size : (number + 1) * size]
        own = _block_gradient(scoring, kept, number, _queries(dy, kv_heads), before)
        dqueries.insert(0, _rows(own.query_RNE.astype(dtype), dy.shape))
        before = own if before is None else _added(before, own)
    assert before is not None
    dkey, dvalue = before.key_RES.astype(dtype), before.value_RES.astype(dtype)
    return _joined(dqueries), _slots(dkey, kv_heads), _slots(dvalue, kv_heads), None, None


def _block_gradient(
    scoring: Scoring, kept: _Kept, number: int, dy_RNE: jax.Array, before: _Gradient | None
) -> _Gradient:
    query, weights, sums, read = kept.blocks[number]
    seen = slice(weights.shape[-1])
    key, value = kept.key_RSE[:, seen], kept.value_RSE[:, seen]
    width, dtype = query.shape[-1], query.dtype
    # Divided by z here, where it is narrow, instead of in the weights.
    dy = dy_RNE.astype(jnp.float32) / sums
    inner = jnp.sum(dy * read.astype(jnp.float32), axis=-1, keepdims=True)
    if before is not None:
        # One block at a time: XLA may else make all blocks' ds before it makes dk of any, and hold
        # them. It drops barriers on a CPU before it orders operations; this it has to wait for.
        # (Where a gradient is infinite this is NaN, and the step changes nothing either way.)
        inner = inner + 0.0 * sum(gradient[0, 0, 0] for gradient in before)
    dy = dy.astype(dtype)
    dvalue = dot("ren,rns->res", _turned(dy), weights)
    dscores = weights.astype(jnp.float32) * (dot("rne,rse->rns", dy, value) - inner)
    if scoring.soft_cap is not None:  # the bounded scores were not kept
        dscores *= scoring.slope(scoring.bound(dot("rne,rse->rns", query, key)))
    dscores = dscores.astype(dtype)
    dquery = dot("rns,rse->rne", dscores, key) * scoring.scale_for(width)
    return _Gradient(dquery, dot("ren,rns->res", _turned(query), dscores), dvalue)


def _added(before: _Gradient, own: _Gradient) -> _Gradient:
    def add(whole: jax.Array, more: jax.Array) -> jax.Array:
        seen = whole[..., : more.shape[-1]]
        return jax.lax.dynamic_update_slice(whole, seen + more, (0, 0, 0))

    key, value = add(before.key_RES, own.key_RES), add(before.value_RES, own.value_RES)
    return _Gradient(own.query_RNE, key, value)


_attend.defvjp(_forward, _backward)


def _joined(blocks: list[jax.Array]) -> jax.Array:
    return jnp.concatenate(blocks, axis=1) if len(blocks) > 1 else blocks[0]


def _turned(matrix: jax.Array) -> jax.Array:
    return row_major(jnp.swapaxes(matrix, -1, -2))


def _queries(query_BTHE: jax.Array, kv_heads: int) -> jax.Array:
    """`[B, T, H, E]` -> `[R, N, E]`."""
    batch, length, heads, width = query_BTHE.shape
    split = query_BTHE.reshape(batch, length, kv_heads, heads // kv_heads, width)
    return split.transpose(0, 2, 3, 1, 4).reshape(batch * kv_heads, -1, width)


def _rows(read_RNE: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """`[R, N, E]` -> `[B, T, H, E]`, which is `shape`; undoes `_queries`."""
    batch, length, heads, width = shape
    kv_heads = read_RNE.shape[0] // batch
    split = read_RNE.reshape(batch, kv_heads, heads // kv_heads, length, width)
    return split.transpose(0, 3, 1, 2, 4).reshape(shape)


def _keys(key_BSKE: jax.Array) -> jax.Array:
    """`[B, S, K, E]` -> `[R, S, E]`."""
    return key_BSKE.swapaxes(1, 2).reshape(-1, key_BSKE.shape[1], key_BSKE.shape[3])


def _slots(key_RES: jax.Array, kv_heads: int) -> jax.Array:
    """`[R, E, S]` -> `[B, S, K, E]`; undoes `_keys` and a turn."""
    split = key_RES.reshape(-1, kv_heads, *key_RES.shape[1:])
    return row_major(split.transpose(0, 3, 1, 2))
