"""Linear attention: a sum of outer products in place of a softmax (arXiv 2006.16236).

    y_t = phi(q_t) S_t / (phi(q_t) z_t + epsilon)       phi(x) = elu(x) + 1
    S_t = S_{t-1} + phi(k_t)^T v_t,   z_t = z_{t-1} + phi(k_t),   S = z = 0 before a document

Training computes chunks of C tokens at once (arXiv 2312.06635): within a chunk as masked products,
across chunks through the state at each chunk's start. Decoding is the recurrence itself, with a
state that does not grow. The state is float32.

Axes: B batch, T time, H heads, K key-value heads, G = H / K, R = B * K rows, E key features, F
value features, I chunks, C tokens of a chunk, N = G * C queries of a chunk.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rtdlm.modules.primitives import (
    Documents,
    documents,
    dot,
    from_chunks,
    pad_time,
    product,
    states_at_start,
    to_chunks,
)

CHUNK = 64
EPSILON = 1e-6


class LinearState(NamedTuple):
    """What a row has read: sums of outer products and of keys, float32."""

    sum_BKEF: jax.Array
    total_BKE: jax.Array

    @classmethod
    def empty(cls, *shape: int) -> "LinearState":
        """Zeros of `shape`: (layers,) batch, key-value heads, key features, value features."""
        return cls(jnp.zeros(shape, jnp.float32), jnp.zeros(shape[:-1], jnp.float32))


def features(x: jax.Array) -> jax.Array:
    """phi(x) = elu(x) + 1, positive, in the format of `x`."""
    return jax.nn.elu(x) + jnp.ones((), x.dtype)


def linear_attention(
    query_BTHE: jax.Array,
    key_BTKE: jax.Array,
    value_BTKF: jax.Array,
    segment_ids_BT: jax.Array,
    *,
    chunk: int = CHUNK,
    state: LinearState | None = None,
    counts_BT: jax.Array | None = None,
) -> tuple[jax.Array, LinearState]:
    """What each query reads of its document so far, chunk by chunk.

    Args:
        query_BTHE: queries before the feature map; H is a multiple of K.
        key_BTKE: keys before the feature map.
        value_BTKF: values.
        segment_ids_BT: int32, at least 0; the state starts anew wherever it changes.
        chunk: tokens computed at once, a matter of speed alone.
        state: what the row's first document has read before; None is nothing.
        counts_BT: False for tokens that leave no trace; None is none.

    Returns:
        `[B, T, H, F]` in the input's format, and the state after the last token.
    """
    batch, length, kv_heads = key_BTKE.shape[:3]
    chunk = min(chunk, length)
    where = documents(segment_ids_BT, chunk, continued=state is not None)
    query = to_chunks(pad_time(features(query_BTHE), chunk), kv_heads, chunk)
    key_BTKE = features(key_BTKE)
    if counts_BT is not None:
        key_BTKE = jnp.where(counts_BT[:, :, None, None], key_BTKE, jnp.zeros((), key_BTKE.dtype))
    key = to_chunks(pad_time(key_BTKE, chunk), kv_heads, chunk)
    value = to_chunks(pad_time(value_BTKF, chunk), kv_heads, chunk)
    read, total = _within(query, key, value, where)
    sum_IREF, total_IRE, state = _across(key, value, where, batch, state)
    group = query.shape[2] // chunk
    reads_IRN1 = jnp.tile(where.per_row(where.reads_IBC, kv_heads), (1, 1, group))[..., None]
    before = product(query, sum_IREF).astype(jnp.float32)
    before_total = jnp.sum(query.astype(jnp.float32) * total_IRE[:, :, None], -1, keepdims=True)
    read = read + jnp.where(reads_IRN1, before, 0.0)
    total = total + jnp.where(reads_IRN1, before_total, 0.0)
    y_IRNF = (read / (total + EPSILON)).astype(value.dtype)
    return from_chunks(y_IRNF, batch, chunk)[:, :length], state


def _within(
    query_IRNE: jax.Array, key_IRCE: jax.Array, value_IRCF: jax.Array, where: Documents
) -> tuple[jax.Array, jax.Array]:
    """Unnormalised reads of the query's own chunk, and their totals, float32."""
    chunks, rows, chunk, _ = key_IRCE.shape
    scores = product(query_IRNE, jnp.swapaxes(key_IRCE, -1, -2))
    batch = where.within_IBCC.shape[1]
    split = scores.reshape(chunks, batch, rows // batch, -1, chunk, chunk)
    split = jnp.where(where.within_IBCC[:, :, None, None], split, jnp.zeros((), split.dtype))
    scores = split.reshape(scores.shape)
    total_IRN1 = jnp.sum(scores.astype(jnp.float32), -1, keepdims=True)
    return product(scores, value_IRCF).astype(jnp.float32), total_IRN1


def _across(
    key_IRCE: jax.Array,
    value_IRCF: jax.Array,
    where: Documents,
    batch: int,
    state: LinearState | None,
) -> tuple[jax.Array, jax.Array, LinearState]:
    """The state at the start of every chunk, and after the last."""
    rows, width = key_IRCE.shape[1], key_IRCE.shape[-1]
    lasts = where.per_row(where.lasts_IBC, rows // batch)[..., None]
    key = jnp.where(lasts, key_IRCE, jnp.zeros((), key_IRCE.dtype))
    added = dot("IREC,IRCF->IREF", jnp.swapaxes(key, -1, -2), value_IRCF)
    total = jnp.sum(key.astype(jnp.float32), axis=2)
    keeps_IR = where.per_row(where.continues_IB, rows // batch)
    if state is None:
        state = LinearState.empty(batch, rows // batch, width, value_IRCF.shape[-1])
    begin = state.sum_BKEF.reshape(added.shape[1:]), state.total_BKE.reshape(total.shape[1:])
    starts, end = states_at_start((added, total), keeps_IR, begin)
    state = LinearState(
        end[0].reshape(batch, rows // batch, width, -1), end[1].reshape(batch, -1, width)
    )
    return starts[0], starts[1], state


def linear_step(
    query_BHE: jax.Array, key_BKE: jax.Array, value_BKF: jax.Array, state: LinearState
) -> tuple[jax.Array, LinearState]:
    """The recurrence: `[B, H, F]` that one more token reads, and the state that holds it."""
    batch, heads, width = query_BHE.shape
    kv_heads = key_BKE.shape[1]
    key, value = features(key_BKE).astype(jnp.float32), value_BKF.astype(jnp.float32)
    state = LinearState(
        state.sum_BKEF + key[..., None] * value[..., None, :], state.total_BKE + key
    )
    query = features(query_BHE).astype(jnp.float32).reshape(batch, kv_heads, -1, width)
    read_BKGF = jnp.einsum("BKGE,BKEF->BKGF", query, state.sum_BKEF)
    total_BKG = jnp.einsum("BKGE,BKE->BKG", query, state.total_BKE)
    y_BKGF = (read_BKGF / (total_BKG[..., None] + EPSILON)).astype(value_BKF.dtype)
    return y_BKGF.reshape(batch, heads, -1), state
