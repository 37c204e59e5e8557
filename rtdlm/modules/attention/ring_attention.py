"""Ring attention (arXiv 2310.01889): rows longer than one device holds.

The tokens of a row lie in n blocks along the mesh axis `context`. Every device keeps its queries
and hands its keys and values on to the next, n times, so that each query meets all of them while no
device ever holds more than two blocks. What a query has read so far is a running softmax:

    m' = max(m, max_s score_s)     y' = y e^(m - m') + sum_s e^(score_s - m') v_s     (z likewise)

and y / z in the end. The gradient goes round once more: weights are made again from the kept
m + log z, and what belongs to a block of keys travels with it until it is home.

Memory a device is 1 / n of the row's: queries meet a block tile by tile, at 128 x T / n scores.
Every device works n times, whatever the causal mask leaves it to read: one that skipped would wait
for the others.

Axes: B batch, T time, S keys of a block, H heads, K key-value heads, G = H / K, E head features, I
tiles of Q queries.
"""

import functools
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from rtdlm.modules.attention.dot_product import MASKED
from rtdlm.modules.attention.scoring import PLAIN, Scoring
from rtdlm.parallel import axis_size

AXIS = "context"
TILE = 128
"""Queries whose scores are there at once."""
Meeting = tuple["Block", jax.Array, jax.Array, jax.Array]
_OF_ROWS = PartitionSpec(None, AXIS)


class Block(NamedTuple):
    """Keys that travel, and what is needed to mask them."""

    key_BSKE: jax.Array
    value_BSKE: jax.Array
    segment_ids_BS: jax.Array
    place_S: jax.Array
    """Places in the row."""


_tree = cast(Any, Block)
"""A block of something else than arrays."""


def attend_round(
    query_BTHE: jax.Array,
    key_BTKE: jax.Array,
    value_BTKE: jax.Array,
    segment_ids_BT: jax.Array,
    scoring: Scoring = PLAIN,
) -> jax.Array:
    """`[B, T, H, E]`: what each query reads of its document, itself and before.

    T must be a multiple of the devices along `context`, and a mesh with that axis must be set.
    """
    place_T = jnp.arange(query_BTHE.shape[1], dtype=jnp.int32)
    local = jax.shard_map(
        functools.partial(_attend, scoring),
        in_specs=(_OF_ROWS, _tree(_OF_ROWS, _OF_ROWS, _OF_ROWS, PartitionSpec(AXIS))),
        out_specs=_OF_ROWS,
        axis_names={AXIS},
    )
    # Partly manual programs are lowered by `jit` alone.
    return jax.jit(local)(query_BTHE, Block(key_BTKE, value_BTKE, segment_ids_BT, place_T))


class Queries(NamedTuple):
    """A device's own queries in tiles; inside of a loop, one tile, without the axis I."""

    x_IBQKGE: jax.Array
    segment_ids_IBQ: jax.Array
    place_IQ: jax.Array


class _Kept(NamedTuple):
    """What the gradient needs."""

    query_BTHE: jax.Array
    own: Block
    read_BTHE: jax.Array
    log_sum_IBKGQ: jax.Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(scoring: Scoring, query_BTHE: jax.Array, own: Block) -> jax.Array:
    return _forward(scoring, query_BTHE, own)[0]


def _forward(scoring: Scoring, query_BTHE: jax.Array, own: Block) -> tuple[jax.Array, _Kept]:
    query = _grouped(query_BTHE, own) * jnp.asarray(
        scoring.scale_for(query_BTHE.shape[-1]), query_BTHE.dtype
    )
    queries = _tiles(query, own)

    def meet(state: Meeting, _: None) -> tuple[Meeting, None]:
        block, *softmax = state

        def meet_tile(tile: tuple[Queries, tuple[jax.Array, ...]]) -> tuple[jax.Array, ...]:
            own, (top, total, read) = tile
            scores = _scores(scoring, own, block)[0]
            higher = jnp.maximum(top, jnp.max(scores, axis=-1))
            weights, kept = jnp.exp(scores - higher[..., None]), jnp.exp(top - higher)
            total = total * kept + jnp.sum(weights, axis=-1)
            weights = weights.astype(query.dtype)
            found = _dot("BKGQS,BSKE->BKGQE", weights, block.value_BSKE)
            return higher, total, read * kept[..., None] + found

        return (_handed_on(block), *jax.lax.map(meet_tile, (queries, tuple(softmax)))), None

    # Nothing read yet, as a value of its own on each device.
    nothing = jnp.zeros_like(jnp.einsum("IBQKGE->IBKGQE", queries.x_IBQKGE), jnp.float32)
    start = (own, nothing[..., 0] + MASKED, nothing[..., 0], nothing)
    (_, top, total, read), _ = jax.lax.scan(meet, start, length=axis_size(AXIS))
    read_IBQKGE = jnp.einsum("IBKGQE->IBQKGE", read / total[..., None])
    read_BTHE = _row(read_IBQKGE, query_BTHE.shape).astype(query_BTHE.dtype)
    return read_BTHE, _Kept(query_BTHE, own, read_BTHE, top + jnp.log(total))


def _backward(scoring: Scoring, kept: _Kept, dy_BTHE: jax.Array) -> tuple[jax.Array, Block]:
    own, dtype = kept.own, kept.query_BTHE.dtype
    scale = scoring.scale_for(kept.query_BTHE.shape[-1])
    query = _grouped(kept.query_BTHE, own) * jnp.asarray(scale, dtype)
    dy, read = _grouped(dy_BTHE, own), _grouped(kept.read_BTHE, own)
    inner = jnp.einsum("BTKGE,BTKGE->BTKG", dy, read, preferred_element_type=jnp.float32)
    tiles = (_tiles(query, own), _cut(dy), _cut(inner), kept.log_sum_IBKGQ)

    def meet(state: Meeting, _: None) -> tuple[Meeting, None]:
        block, dkey, dvalue, dquery = state

        def meet_tile(
            sums: tuple[jax.Array, jax.Array], tile: tuple[Any, ...]
        ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
            (own, dy, inner, log_sum), dquery = tile
            scores, slope = _scores(scoring, own, block)
            weights = jnp.exp(scores - log_sum[..., None])
            dweights = _dot("BQKGE,BSKE->BKGQS", dy, block.value_BSKE)
            inner_BKGQ1 = jnp.einsum("BQKG->BKGQ", inner)[..., None]
            dscores = (weights * (dweights - inner_BKGQ1) * slope).astype(dtype)
            dkey = sums[0] + _dot("BKGQS,BQKGE->BSKE", dscores, own.x_IBQKGE)
            dvalue = sums[1] + _dot("BKGQS,BQKGE->BSKE", weights.astype(dtype), dy)
            return (dkey, dvalue), dquery + _dot("BKGQS,BSKE->BQKGE", dscores, block.key_BSKE)

        (dkey, dvalue), dquery = jax.lax.scan(meet_tile, (dkey, dvalue), (tiles, dquery))
        return (*_handed_on((block, dkey, dvalue)), dquery), None

    dkey, dvalue, dquery = (
        jnp.zeros_like(x, jnp.float32) for x in (own.key_BSKE, own.value_BSKE, tiles[0].x_IBQKGE)
    )
    start: Meeting = (own, dkey, dvalue, dquery)
    (_, dkey, dvalue, dquery), _ = jax.lax.scan(meet, start, length=axis_size(AXIS))
    dquery_BTHE = _row(dquery * scale, dy_BTHE.shape).astype(dtype)
    return dquery_BTHE, _tree(dkey.astype(dtype), dvalue.astype(dtype), None, None)


_attend.defvjp(_forward, _backward)


def _scores(scoring: Scoring, own: Queries, block: Block) -> tuple[jax.Array, jax.Array | float]:
    """Masked scores `[B, K, G, Q, S]` of a tile and a block, and their slopes if bounded."""
    bounded = scoring.bound(_dot("BQKGE,BSKE->BKGQS", own.x_IBQKGE, block.key_BSKE))
    back_BQS = (own.place_IQ[:, None] - block.place_S[None])[None]
    scores = scoring.lower(bounded, back_BQS)
    same_BQS = own.segment_ids_IBQ[:, :, None] == block.segment_ids_BS[:, None]
    visible = (same_BQS & (back_BQS >= 0))[:, None, None]
    return jnp.where(visible, scores, MASKED), scoring.slope(bounded)


def _handed_on(tree: Any) -> Any:
    """Every device's arrays, now on the next one."""
    size = axis_size(AXIS)
    ring = [(place, (place + 1) % size) for place in range(size)]
    return jax.tree.map(lambda x: jax.lax.ppermute(x, AXIS, ring), tree)


def _tiles(query_BTKGE: jax.Array, own: Block) -> Queries:
    return Queries(_cut(query_BTKGE), _cut(own.segment_ids_BS), _cut(own.place_S[None])[:, 0])


def _cut(x_BT: jax.Array) -> jax.Array:
    """`[I, B, Q, ...]`; what fills the last tile up is left out of the row again."""
    batch, length, *rest = x_BT.shape
    size = min(TILE, length)
    widths = [(0, 0), (0, -length % size), *[(0, 0)] * len(rest)]
    padded = jnp.pad(x_BT, widths)
    return jnp.moveaxis(padded.reshape(batch, -1, size, *rest), 1, 0)


def _row(x_IBQKGE: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """`[B, T, H, E]`, which is `shape`."""
    batch, length, heads, width = shape
    x_BTHE = jnp.moveaxis(x_IBQKGE, 0, 1).reshape(batch, -1, heads, width)
    return x_BTHE[:, :length]


def _grouped(x_BTHE: jax.Array, own: Block) -> jax.Array:
    """`[B, T, K, G, E]`."""
    batch, length, _, width = x_BTHE.shape
    return x_BTHE.reshape(batch, length, own.key_BSKE.shape[2], -1, width)


def _dot(form: str, left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.einsum(form, left, right, preferred_element_type=jnp.float32)
