"""Attention to the own chunk in full and to earlier chunks in summary, for unbounded contexts.

A document is cut into chunks of C tokens, counted from its start. A complete chunk leaves N
summaries of each key-value head, each a pooling of its keys and values with a learned probe p,

    a_ns = softmax_s(p_n k_s / sqrt(E))    k'_n = sum_s a_ns k_s    v'_n = sum_s a_ns v_s

and a query reads, with one softmax, the tokens of its own chunk up to itself and the summaries of
the chunks before, as the Compressive Transformer reads its memory (arXiv 1911.05507) but with
learned probes in place of its compression loss. Costs T (2 C + N T / C) in place of T^2: the own
chunk lies within the 2 C places that end with the query's block of the row.

Axes: B batch, T time, H heads, K key-value heads, G = H / K, R = B * K rows, E head features, M
chunks, C tokens of a chunk, N summaries of a chunk, S = M * N summaries, I blocks of the row.
"""

import jax
import jax.numpy as jnp

from rtdlm.modules.attention.blocks import Blocks, find_blocks
from rtdlm.modules.attention.dot_product import MASKED
from rtdlm.modules.attention.mask import first_tokens
from rtdlm.modules.primitives import dot, from_chunks, move, pad_time, to_chunks


def chunk_mask(segment_ids_BT: jax.Array, *, chunk: int) -> jax.Array:
    """`[B, T, T]`: query t may read token s of its own chunk; a table for tests and for a look."""
    first_BT = first_tokens(segment_ids_BT)
    number_BT = (jnp.arange(segment_ids_BT.shape[1])[None] - first_BT) // chunk
    same = (first_BT[:, :, None] == first_BT[:, None]) & (
        number_BT[:, :, None] == number_BT[:, None]
    )
    return same & jnp.tril(jnp.ones(same.shape[1:], bool))[None]


def summary_mask(segment_ids_BT: jax.Array, *, chunk: int) -> jax.Array:
    """`[B, T, M]`: query t may read the summaries of chunk m of the row; M is T // C."""
    return _earlier(segment_ids_BT, find_blocks(segment_ids_BT, chunk), chunk)


def attend_compressed(
    query_BTHE: jax.Array,
    key_BTKE: jax.Array,
    value_BTKE: jax.Array,
    segment_ids_BT: jax.Array,
    probe_NKE: jax.Array,
    *,
    chunk: int,
) -> jax.Array:
    """`[B, T, H, E]`: what each query reads of its chunk and of the summaries before it.

    Args:
        query_BTHE: queries; H is a multiple of K.
        key_BTKE: keys of the same row.
        value_BTKE: values of the same row.
        segment_ids_BT: int32 document of each token, at least 0.
        probe_NKE: what each summary of each key-value head looks for.
        chunk: tokens of a chunk.
    """
    batch, length, _, width = query_BTHE.shape
    kv_heads, scale = key_BTKE.shape[2], width**-0.5
    query = query_BTHE * jnp.asarray(scale, query_BTHE.dtype)
    query_IRNE = to_chunks(pad_time(query, chunk), kv_heads, chunk)
    own_IRSE = [_two_blocks(x, chunk) for x in (key_BTKE, value_BTKE)]
    scores = [dot("IRNE,IRSE->IRNS", query_IRNE, own_IRSE[0])]
    masks = [_own_mask(segment_ids_BT, chunk)]
    sums_RSE = None
    if length >= chunk:
        where = find_blocks(segment_ids_BT, chunk)
        sums_RSE = summaries(key_BTKE, value_BTKE, where, probe_NKE, chunk=chunk)
        scores.append(dot("IRNE,RSE->IRNS", query_IRNE, sums_RSE[0]))
        earlier_BTM = pad_time(_earlier(segment_ids_BT, where, chunk), chunk)
        earlier_BTS = jnp.repeat(earlier_BTM, probe_NKE.shape[0], axis=-1)
        split_BICS = earlier_BTS.reshape(batch, -1, chunk, earlier_BTS.shape[-1])
        masks.append(jnp.swapaxes(split_BICS, 0, 1))
    mask_IBCS = jnp.concatenate(masks, axis=-1)
    both = jnp.concatenate(scores, axis=-1)
    split = both.reshape(both.shape[0], batch, kv_heads, -1, chunk, both.shape[-1])
    split = jnp.where(mask_IBCS[:, :, None, None], split, MASKED)
    weights = jax.nn.softmax(split, axis=-1).reshape(both.shape).astype(value_BTKE.dtype)
    places = 2 * chunk
    read = dot("IRNS,IRSE->IRNE", weights[..., :places], own_IRSE[1])
    if sums_RSE is not None:
        read += dot("IRNS,RSE->IRNE", weights[..., places:], sums_RSE[1])
    return from_chunks(read.astype(query_BTHE.dtype), batch, chunk)[:, :length]


def summaries(
    key_BTKE: jax.Array,
    value_BTKE: jax.Array,
    where: Blocks,
    probe_NKE: jax.Array,
    *,
    chunk: int,
) -> tuple[jax.Array, jax.Array]:
    """Keys and values `[R, S, E]` that stand for each chunk; those of no chunk mean nothing."""
    batch, length, kv_heads, width = key_BTKE.shape

    def chunks(x_BTKE: jax.Array) -> jax.Array:
        flat = x_BTKE.reshape(batch, length, -1)
        moved = move(flat, where.token_BX, where.place_BT)
        return moved.reshape(batch, -1, chunk, kv_heads, width)

    key, value = chunks(key_BTKE), chunks(value_BTKE)
    scores = dot("NKE,BMCKE->BKMNC", probe_NKE.astype(key.dtype), key) * width**-0.5
    weights = jax.nn.softmax(scores, axis=-1).astype(key.dtype)
    pooled = [dot("BKMNC,BMCKE->BKMNE", weights, x).astype(key.dtype) for x in (key, value)]
    flat = [x.reshape(batch * kv_heads, -1, width) for x in pooled]
    return flat[0], flat[1]


def _earlier(segment_ids_BT: jax.Array, where: Blocks, chunk: int) -> jax.Array:
    """`[B, T, M]`: complete chunks of the token's document that end before its own begins."""
    time_T = jnp.arange(segment_ids_BT.shape[1])
    offset_BT = (time_T[None] - first_tokens(segment_ids_BT)) % chunk
    begin_BT1 = (time_T[None] - offset_BT)[:, :, None]
    same = where.document_BM[:, None] == where.document_BT[:, :, None]
    return same & (where.start_BM[:, None] + chunk <= begin_BT1)


def _two_blocks(x_BTKE: jax.Array, chunk: int) -> jax.Array:
    """`[I, R, 2 C, E]`: each block of the row after the block before it, zeros before the row."""
    batch, _, kv_heads, width = x_BTKE.shape
    x = pad_time(x_BTKE, chunk).reshape(batch, -1, chunk, kv_heads, width)
    x_IRCE = jnp.einsum("BICKE->IBKCE", x).reshape(-1, batch * kv_heads, chunk, width)
    before = jnp.concatenate([jnp.zeros_like(x_IRCE[:1]), x_IRCE[:-1]])
    return jnp.concatenate([before, x_IRCE], axis=2)


def _own_mask(segment_ids_BT: jax.Array, chunk: int) -> jax.Array:
    """`[I, B, C, 2 C]`: keys of two blocks in the query's chunk; padding reads what comes first."""
    batch, length = segment_ids_BT.shape
    first_BT = first_tokens(segment_ids_BT)
    time_T = jnp.arange(length)
    begin_BT = time_T[None] - (time_T[None] - first_BT) % chunk
    spare = -length % chunk
    begin_BT = jnp.pad(begin_BT, ((0, 0), (0, spare)), mode="edge")
    begin_IBC1 = jnp.swapaxes(begin_BT.reshape(batch, -1, chunk), 0, 1)[..., None]
    now_IC = jnp.arange(length + spare).reshape(-1, chunk)
    place_IS = now_IC[:, :1] - chunk + jnp.arange(2 * chunk)[None]
    past = place_IS[:, None] <= now_IC[..., None]
    return past[:, None] & (place_IS[:, None, None] >= begin_IBC1)
