"""Rows longer than a segment, read segment by segment with memory in between.

Attention, a layer's convolutions and n-grams see a segment of S tokens, or go on from the one
before (`memory.stm_form=attention`), and positions count from its start, or from a document's
within it. What is older reaches a token through memory alone, which
is carried by a scan: compiling takes the time of one segment, however long the row.

Axes: B batch, T time, S tokens of a segment, N segments, V vocabulary.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rtdlm.models.cache import DecodeCache, LayerCache
from rtdlm.models.memory import MemoryState
from rtdlm.modules.primitives import where_rows


class Part(NamedTuple):
    """One segment of every row, or all of them along a leading axis N."""

    ids_BS: jax.Array
    positions_BS: jax.Array
    segment_ids_BS: jax.Array
    labels_BS: jax.Array | None
    weights_BS: jax.Array | None
    """What tokens weigh in the objective; None where there is none."""


Read = Callable[[Part, MemoryState, jax.Array | None], tuple[Any, MemoryState]]
"""Of a segment, memory of what was before it, and a key: a result, and memory after it."""


def read_segments(
    read: Read,
    row: Part,
    memory: MemoryState,
    *,
    segment: int,
    key: jax.Array | None,
    backprop: int | None,
) -> tuple[Any, MemoryState]:
    """The results of all segments, with a leading axis N, and memory after the last.

    Args:
        read: reads one segment.
        row: `[B, T]`; it is padded to whole segments.
        memory: of what was before the row.
        segment: tokens of a segment.
        key: for dropout; None has none.
        backprop: segments after which gradients through memory are cut; None is never.
    """
    length = row.ids_BS.shape[1]
    # A row within one segment is read as it is: nothing goes on from its padding.
    parts = _cut(row, segment if length > segment else length)
    count = parts.ids_BS.shape[0]

    def step(memory: MemoryState, given: tuple[Part, jax.Array]) -> tuple[MemoryState, Any]:
        part, number = given
        if backprop is not None:
            cut = number % backprop == 0
            memory = jax.tree.map(lambda x: jnp.where(cut, jax.lax.stop_gradient(x), x), memory)
        own_key = None if key is None else jax.random.fold_in(key, number)
        result, memory = read(part, memory, own_key)
        return memory, result

    memory, results = jax.lax.scan(step, memory, (parts, jnp.arange(count)))
    return results, memory


def joined(x_NBS: jax.Array, length: int) -> jax.Array:
    """`[N, B, S, ...]` -> `[B, length, ...]`."""
    x = jnp.swapaxes(x_NBS, 0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :length]


def _cut(row: Part, segment: int) -> Part:
    """`[N, B, S]`, padding at the end, and positions within the segment."""

    def cut(x_BT: jax.Array | None) -> jax.Array | None:
        if x_BT is None:
            return None
        padded = jnp.pad(x_BT, ((0, 0), (0, -x_BT.shape[1] % segment)))
        return jnp.swapaxes(padded.reshape(x_BT.shape[0], -1, segment), 0, 1)

    parts = jax.tree.map(cut, row)
    place_S = jnp.arange(segment, dtype=parts.positions_BS.dtype)
    return parts._replace(positions_BS=jnp.minimum(parts.positions_BS, place_S[None, None]))


Extend = Callable[[jax.Array, jax.Array, DecodeCache, jax.Array], tuple[jax.Array, DecodeCache]]
"""Of ids, positions within the segment, a cache and lengths: logits, and the longer cache."""


def extend_segments(
    extend: Extend,
    ids_BT: jax.Array,
    *,
    positions_BT: jax.Array,
    cache: DecodeCache,
    lengths_B: jax.Array | None,
    segment: int,
) -> tuple[jax.Array, DecodeCache]:
    """Logits `[B, T, V]` of T more tokens a row, and the longer cache.

    Each row is where it is in a segment of its own: a piece is what all rows read before the first
    of their next segment boundaries that they have not passed.
    """
    batch, length = ids_BT.shape
    if lengths_B is None:
        lengths_B = jnp.full((batch,), length, jnp.int32)
    offset_B = positions_BT[:, 0] % segment
    if length == 1:
        cache = begin_segment(cache, offset_B == 0)
        return extend(ids_BT, offset_B[:, None], cache, lengths_B)
    width = min(segment, length)
    place_W = jnp.arange(width, dtype=jnp.int32)

    def piece(cache: DecodeCache, number: jax.Array) -> tuple[DecodeCache, jax.Array]:
        begin_B = jnp.where(number == 0, 0, number * segment - offset_B)
        end_B = jnp.minimum((number + 1) * segment - offset_B, lengths_B)
        count_B = jnp.clip(end_B - begin_B, 0, width)
        start_B = jnp.where(number == 0, offset_B, 0)
        # A row that has read all its tokens reads on beyond its last slot, where nothing is kept.
        start_B = jnp.where(count_B > 0, start_B, segment)
        token_BW = jnp.clip(begin_B[:, None] + place_W[None], 0, length - 1)
        own_BW = jnp.take_along_axis(ids_BT, token_BW, axis=1)
        fresh_B = (start_B == 0) & (count_B > 0)
        cache = begin_segment(cache, fresh_B)
        scores_BWV, cache = extend(own_BW, start_B[:, None] + place_W[None], cache, count_B)
        return cache, scores_BWV

    count = (length + segment - 2) // segment + 1
    cache, scores_NBWV = jax.lax.scan(piece, cache, jnp.arange(count))
    place_BT = offset_B[:, None] + jnp.arange(length)[None]
    number_BT = place_BT // segment
    within_BT = place_BT % segment - jnp.where(number_BT == 0, offset_B[:, None], 0)
    return scores_NBWV[number_BT, jnp.arange(batch)[:, None], within_BT], cache


def begin_segment(cache: DecodeCache, rows_B: jax.Array) -> DecodeCache:
    """`cache` with nothing but memory in the rows that `rows_B` marks."""

    def begin(cache: DecodeCache) -> DecodeCache:
        def emptied(layer: LayerCache) -> LayerCache:
            rest = layer._replace(memory=None)
            none = jax.tree.map(jnp.zeros_like, rest)
            return where_rows(rows_B, none, rest, axis=1)._replace(memory=layer.memory)

        loops = tuple(tuple(emptied(layer) for layer in loop) for loop in cache.loops)
        memories = [layer.memory for loop in cache.loops for layer in loop]
        if any(memory is not None and memory.convs is not None for memory in memories):
            return cache._replace(loops=loops)  # what stands before the layers goes on, too
        none = jax.tree.map(jnp.zeros_like, cache.input)
        # A core's slots, as all keys and values, are written before they are read.
        return DecodeCache(loops, where_rows(rows_B, none, cache.input), cache.core)

    # Of the tokens that are decoded one by one, few begin a segment.
    return jax.lax.cond(jnp.any(rows_B), begin, lambda cache: cache, cache)
