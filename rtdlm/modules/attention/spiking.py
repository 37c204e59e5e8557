"""Attention to the tokens that spike.

    u_s = x_s w - theta          z_s = 1 if u_s > 0 else 0          dz/du := max(0, 1 - |u| / WIDTH)
    y_t = sum_{s <= t} z_s exp(q_t k_s) v_s / (1 + sum_{s <= t} z_s exp(q_t k_s))

for each key-value head, with a learned threshold theta; a query that finds no spike reads zero.
The gradient of a spike is a surrogate (arXiv 1901.09948), as in Spikformer (arXiv 2209.15425).
Neurons have no memory, so that a spike is a matter of its token alone. What did not spike is
neither multiplied nor read: see `compacted`. The surrogate is zero beyond WIDTH, so that the
backward pass too leaves out, without changing it, all but the keys that spiked or nearly did.

Axes: B batch, T time, D model, H heads, K key-value heads, G = H / K, R = B * K rows, E features.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rtdlm.modules.attention import compacted
from rtdlm.modules.attention.compacted import Chosen, Keys, Known, Queries
from rtdlm.modules.attention.mask import first_tokens
from rtdlm.modules.primitives import from_chunks, narrow, pad_time, to_chunks

WIDTH = 0.5
"""Distance from the threshold up to which a token has a gradient."""


class SpikeStatistics(NamedTuple):
    """How sparse a layer was; no gradient."""

    rate: jax.Array
    """Share of tokens that spiked, over heads and the tokens that are not padding."""
    computed: jax.Array
    """Tiles of keys that were multiplied, over those of dense causal attention."""


def surrogate(drive: jax.Array) -> jax.Array:
    """What stands for the derivative of a spike, 1 at the threshold."""
    return jnp.maximum(0.0, 1.0 - jnp.abs(drive) / WIDTH)


@functools.partial(jax.custom_vjp)
def attend_spiking(
    query_BTHE: jax.Array,
    key_BTKE: jax.Array,
    value_BTKE: jax.Array,
    drive_BTK: jax.Array,
    segment_ids_BT: jax.Array,
) -> tuple[jax.Array, SpikeStatistics]:
    """What each query reads of the tokens of its document that spiked, itself included.

    Args:
        query_BTHE: scaled queries; H is a multiple of K.
        key_BTKE: keys of the same row.
        value_BTKE: values of the same row.
        drive_BTK: float32; a key above zero spikes.
        segment_ids_BT: int32 document of each token; 0 is padding, which never spikes.

    Returns:
        `[B, T, H, E]` in the input's format, and how sparse it was.
    """
    return _forward(query_BTHE, key_BTKE, value_BTKE, drive_BTK, segment_ids_BT)[0]


class _Saved(NamedTuple):
    query_BTHE: jax.Array
    key_BTKE: jax.Array
    value_BTKE: jax.Array
    drive_BTK: jax.Array
    segment_ids_BT: jax.Array
    read_IRNE: jax.Array
    normaliser_IRN: jax.Array


def _forward(
    query: jax.Array, key: jax.Array, value: jax.Array, drive: jax.Array, segments: jax.Array
) -> tuple[tuple[jax.Array, SpikeStatistics], _Saved]:
    length = query.shape[1]
    chosen, queries, keys = _compact(query, key, value, drive, segments, above=0.0)
    found = compacted.read(queries, keys)
    block = queries.first_IRC.shape[-1]
    read_BTHE = from_chunks(found.read_IRNE, query.shape[0], block)[:, :length]
    told = _statistics(chosen, found.tiles_I, segments, drive.shape[2], block=block)
    saved = _Saved(query, key, value, drive, segments, found.read_IRNE, found.normaliser_IRN)
    return (read_BTHE, told), saved


def _backward(
    saved: _Saved, change: tuple[jax.Array, SpikeStatistics]
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, None]:
    query, key, value, drive, segments = saved[:5]
    batch, length, kv_heads = drive.shape
    chosen, queries, keys = _compact(query, key, value, drive, segments, above=-WIDTH)
    drive_RT = _rows(drive)
    counts_RS = compacted.take(drive_RT, chosen.token_RS) > 0.0
    block = queries.first_IRC.shape[-1]
    change_IRNE = to_chunks(pad_time(change[0], block), kv_heads, block)
    known = Known(change_IRNE, saved.read_IRNE, saved.normaliser_IRN)
    changes = compacted.differentiate(queries, keys, counts_RS, known)
    dquery = from_chunks(narrow(changes.query_IRNE, query.dtype), batch, block)[:, :length]
    dkey, dvalue, dcounts = (
        compacted.take(x, chosen.slot_RT)
        for x in (changes.key_RSE, changes.value_RSE, changes.counts_RS)
    )
    ddrive = _tokens(dcounts * surrogate(drive_RT), batch)
    return (
        dquery,
        narrow(_tokens(dkey, batch), key.dtype),
        narrow(_tokens(dvalue, batch), value.dtype),
        ddrive,
        None,
    )


attend_spiking.defvjp(_forward, _backward)


def _compact(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    drive: jax.Array,
    segments: jax.Array,
    *,
    above: float,
) -> tuple[Chosen, Queries, Keys]:
    """Keys with a drive above `above` side by side, and where each query finds its own."""
    kv_heads = drive.shape[2]
    chosen = compacted.choose(_rows((drive > above) & (segments > 0)[:, :, None]))
    before_RT = jnp.pad(chosen.end_RT, ((0, 0), (1, 0)))
    opened_RT = jnp.repeat(first_tokens(segments), kv_heads, axis=0)
    first_RT = jnp.take_along_axis(before_RT, opened_RT, axis=1)
    queries = blocks_of(query, first_RT, chosen.end_RT)
    keys = Keys(*(compacted.take(_rows(x), chosen.token_RS) for x in (key, value)))
    return chosen, queries, keys


def blocks_of(query_BTHE: jax.Array, first_RT: jax.Array, end_RT: jax.Array) -> Queries:
    """Queries in blocks; what fills up the last reads what the last token does."""
    length, kv_heads = query_BTHE.shape[1], end_RT.shape[0] // query_BTHE.shape[0]
    block = min(compacted.BLOCK, length)

    def cut(x_RT: jax.Array) -> jax.Array:
        padded = jnp.pad(x_RT, ((0, 0), (0, -length % block)), mode="edge")
        return jnp.swapaxes(padded.reshape(x_RT.shape[0], -1, block), 0, 1)

    query_IRNE = to_chunks(pad_time(query_BTHE, block), kv_heads, block)
    return Queries(query_IRNE, cut(first_RT), cut(end_RT))


def _statistics(
    chosen: Chosen, tiles_I: jax.Array, segments: jax.Array, kv_heads: int, *, block: int
) -> SpikeStatistics:
    length = segments.shape[1]
    tokens = jnp.sum((segments > 0).astype(jnp.float32)) * kv_heads
    spikes = jnp.sum(chosen.end_RT[:, -1].astype(jnp.float32))
    tile = min(compacted.TILE, length)
    ends = [min(start + block, length) for start in range(0, length, block)]
    dense = sum(-(-end // tile) for end in ends)
    computed = jnp.sum(tiles_I.astype(jnp.float32)) / dense
    return SpikeStatistics(spikes / jnp.maximum(tokens, 1.0), computed)


def _rows(x_BTK: jax.Array) -> jax.Array:
    """`[B, T, K, ...]` -> `[R, T, ...]`."""
    swapped = jnp.swapaxes(x_BTK, 1, 2)
    return swapped.reshape(-1, *swapped.shape[2:])


def _tokens(x_RT: jax.Array, batch: int) -> jax.Array:
    """Undoes `_rows`."""
    return jnp.swapaxes(x_RT.reshape(batch, -1, *x_RT.shape[1:]), 1, 2)
