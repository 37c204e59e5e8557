"""Ring attention (arXiv 2310.01889): rows longer than one device holds.

The tokens of a row lie in n blocks along the mesh axis `context`. Every device keeps its queries
and hands its keys and values on to the next, n times, so that each query meets all of them while no
device ever holds more than two blocks. What a query has read so far is a running softmax:

    m' = max(m, max_s score_s)     y' = y e^(m - m') + sum_s e^(score_s - m') v_s     (z likewise)

and y / z in the end. The gradient goes round once more: weights are made again from the kept
m + log z, and what belongs to a block of keys travels with it until it is home.

Memory a device is 1 / n of the row's: queries meet half a block tile by tile, at 64 x T / n scores.
Halves that are wholly in a tile's future are not computed. In the order of the row the last device
would have none of these, and the others would wait for it; therefore the row is dealt out first, in
2 n halves, of which device d gets number d and number 2 n - 1 - d (as Llama 3 does, arXiv
2407.21783, section 3.3.2): each computes 2 n + 1 of the 4 n pairs of halves.

Axes: B batch, T time, S keys of a half or, where nothing is dealt, of a block, H heads, K key-value
heads, G = H / K, E head features, I tiles of Q queries, P parts of a block.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

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
Tree = TypeVar("Tree")
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
        functools.partial(_attend_dealt, scoring),
        in_specs=(_OF_ROWS, _tree(_OF_ROWS, _OF_ROWS, _OF_ROWS, PartitionSpec(AXIS))),
        out_specs=_OF_ROWS,
        axis_names={AXIS},
    )
    # Partly manual programs are lowered by `jit` alone.
    return jax.jit(local)(query_BTHE, Block(key_BTKE, value_BTKE, segment_ids_BT, place_T))


def _attend_dealt(scoring: Scoring, query_BTHE: jax.Array, own: Block) -> jax.Array:
    """As `_attend`, of what lies in the order of the row."""
    if _num_parts(query_BTHE.shape[1]) == 1:
        return _attend(scoring, query_BTHE, own)
    key, value, segments, place = own
    query, key, value, segments = (_dealt(x) for x in (query_BTHE, key, value, segments))
    own = Block(key, value, segments, _dealt(place[None])[0])
    return _collected(_attend(scoring, query, own))


class Queries(NamedTuple):
    """A device's own queries in halves of tiles, `[P, I, ...]`; in a loop over these, one half
    without the axis P, or one tile without I too.
    """

    x_IBQKGE: jax.Array
    segment_ids_IBQ: jax.Array
    place_IQ: jax.Array


class _Softmax(NamedTuple):
    """What queries have read so far, before it is divided by the sum of weights; axes as there."""

    top_IBKGQ: jax.Array
    total_IBKGQ: jax.Array
    read_IBKGQE: jax.Array


class _Gradients(NamedTuple):
    """By keys and values, float32."""

    key_BSKE: jax.Array
    value_BSKE: jax.Array


class _Asked(NamedTuple):
    """Queries and what the gradient knows of them; axes as there."""

    own: Queries
    dy_IBQKGE: jax.Array
    inner_IBQKG: jax.Array
    log_sum_IBKGQ: jax.Array
    dquery_IBQKGE: jax.Array


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
        parts, *given = state

        def meet_part(softmax: _Softmax, part: Block) -> tuple[_Softmax, None]:
            def meet_half(half: tuple[Queries, _Softmax]) -> _Softmax:
                def read() -> _Softmax:
                    return jax.lax.map(lambda tile: _read(scoring, tile[0], tile[1], part), half)

                return _unless_later(part, *half, read)

            return jax.lax.map(meet_half, (queries, softmax)), None

        softmax, _ = jax.lax.scan(meet_part, _Softmax(*given), parts)
        return (_handed_on(parts), *softmax), None

    # Nothing read yet, as a value of its own on each device.
    nothing = jnp.zeros_like(jnp.einsum("...QKGE->...KGQE", queries.x_IBQKGE), jnp.float32)
    start = (_parts(own), nothing[..., 0] + MASKED, nothing[..., 0], nothing)
    (_, top, total, read), _ = jax.lax.scan(meet, start, length=axis_size(AXIS))
    read_IBQKGE = jnp.einsum("...KGQE->...QKGE", read / total[..., None])
    read_BTHE = _row(read_IBQKGE, query_BTHE.shape).astype(query_BTHE.dtype)
    return read_BTHE, _Kept(query_BTHE, own, read_BTHE, top + jnp.log(total))


def _backward(scoring: Scoring, kept: _Kept, dy_BTHE: jax.Array) -> tuple[jax.Array, Block]:
    own, dtype = kept.own, kept.query_BTHE.dtype
    scale = scoring.scale_for(kept.query_BTHE.shape[-1])
    query = _grouped(kept.query_BTHE, own) * jnp.asarray(scale, dtype)
    dy, read = _grouped(dy_BTHE, own), _grouped(kept.read_BTHE, own)
    inner = jnp.einsum("BTKGE,BTKGE->BTKG", dy, read, preferred_element_type=jnp.float32)
    asked = (_tiles(query, own), _cut(dy), _cut(inner), kept.log_sum_IBKGQ)

    def meet(state: Meeting, _: None) -> tuple[Meeting, None]:
        parts, dkeys, dvalues, dquery = state

        def meet_part(
            dquery: jax.Array, given: tuple[Block, _Gradients]
        ) -> tuple[jax.Array, _Gradients]:
            part, sums = given

            def meet_half(sums: _Gradients, half: _Asked) -> tuple[_Gradients, jax.Array]:
                def differentiate() -> tuple[_Gradients, jax.Array]:
                    one = functools.partial(_differentiate, scoring, part)
                    found: tuple[_Gradients, jax.Array] = jax.lax.scan(one, sums, half)
                    return found

                return _unless_later(part, half.own, (sums, half.dquery_IBQKGE), differentiate)

            sums, dquery = jax.lax.scan(meet_half, sums, _Asked(*asked, dquery))
            return dquery, sums

        dquery, sums = jax.lax.scan(meet_part, dquery, (parts, _Gradients(dkeys, dvalues)))
        return (*_handed_on((parts, *sums)), dquery), None

    parts = _parts(own)
    dkeys, dvalues, dquery = (
        jnp.zeros_like(x, jnp.float32)
        for x in (parts.key_BSKE, parts.value_BSKE, asked[0].x_IBQKGE)
    )
    start: Meeting = (parts, dkeys, dvalues, dquery)
    (_, dkeys, dvalues, dquery), _ = jax.lax.scan(meet, start, length=axis_size(AXIS))
    dquery_BTHE = _row(dquery * scale, dy_BTHE.shape).astype(dtype)
    dkey, dvalue = (_joined(x).astype(dtype) for x in (dkeys, dvalues))
    return dquery_BTHE, _tree(dkey, dvalue, None, None)


_attend.defvjp(_forward, _backward)


def _read(scoring: Scoring, own: Queries, before: _Softmax, part: Block) -> _Softmax:
    """A tile's running softmax after it has met some keys."""
    top, total, read = before
    scores = _scores(scoring, own, part)[0]
    higher = jnp.maximum(top, jnp.max(scores, axis=-1))
    weights, kept = jnp.exp(scores - higher[..., None]), jnp.exp(top - higher)
    total = total * kept + jnp.sum(weights, axis=-1)
    found = _dot("BKGQS,BSKE->BKGQE", weights.astype(own.x_IBQKGE.dtype), part.value_BSKE)
    return _Softmax(higher, total, read * kept[..., None] + found)


def _differentiate(
    scoring: Scoring, part: Block, before: _Gradients, tile: _Asked
) -> tuple[_Gradients, jax.Array]:
    """Gradients of some keys and values, and of a tile's queries, with what they add to them."""
    own, dy, inner_BQKG, log_sum, dquery = tile
    dtype = own.x_IBQKGE.dtype
    scores, slope = _scores(scoring, own, part)
    weights = jnp.exp(scores - log_sum[..., None])
    dweights = _dot("BQKGE,BSKE->BKGQS", dy, part.value_BSKE)
    inner_BKGQ1 = jnp.einsum("BQKG->BKGQ", inner_BQKG)[..., None]
    dscores = (weights * (dweights - inner_BKGQ1) * slope).astype(dtype)
    dkey = before.key_BSKE + _dot("BKGQS,BQKGE->BSKE", dscores, own.x_IBQKGE)
    dvalue = before.value_BSKE + _dot("BKGQS,BQKGE->BSKE", weights.astype(dtype), dy)
    return _Gradients(dkey, dvalue), dquery + _dot("BKGQS,BSKE->BQKGE", dscores, part.key_BSKE)


def _unless_later(part: Block, own: Queries, before: Tree, meet: Callable[[], Tree]) -> Tree:
    """`before` if all keys are later than all queries of the half, else what `meet` gives."""
    later = jnp.min(part.place_S) > jnp.max(own.place_IQ)
    found: Tree = jax.lax.cond(later, lambda: before, meet)
    return found


def _scores(scoring: Scoring, own: Queries, block: Block) -> tuple[jax.Array, jax.Array | float]:
    """Masked scores `[B, K, G, Q, S]` of a tile and a block, and their slopes if bounded."""
    bounded = scoring.bound(_dot("BQKGE,BSKE->BKGQS", own.x_IBQKGE, block.key_BSKE))
    back_BQS = (own.place_IQ[:, None] - block.place_S[None])[None]
    scores = scoring.lower(bounded, back_BQS)
    same_BQS = own.segment_ids_IBQ[:, :, None] == block.segment_ids_BS[:, None]
    visible = (same_BQS & (back_BQS >= 0))[:, None, None]
    return jnp.where(visible, scores, MASKED), scoring.slope(bounded)


def _parts(own: Block) -> Block:
    """Every array in the halves that were dealt, `[P, ...]`; one where nothing was."""

    def cut(x: jax.Array) -> jax.Array:
        batch, length, *rest = x.shape
        count = _num_parts(length)
        return jnp.moveaxis(x.reshape(batch, count, length // count, *rest), 1, 0)

    key, value, segments, place = own
    return Block(cut(key), cut(value), cut(segments), cut(place[None])[:, 0])


def _num_parts(length: int) -> int:
    """Of a device's tokens: the two halves it was dealt, or all if it is alone or they are odd."""
    return 1 if axis_size(AXIS) == 1 or length % 2 else 2


def _joined(x_PBS: jax.Array) -> jax.Array:
    """`[B, S, ...]` of the whole block."""
    parts, batch, length, *rest = x_PBS.shape
    return jnp.moveaxis(x_PBS, 0, 1).reshape(batch, parts * length, *rest)


def owners(half: int) -> list[tuple[int, int]]:
    """From which device the first (0) or second (1) half of its block goes to which."""
    size = axis_size(AXIS)
    numbers = [2 * place + half for place in range(size)]
    return [
        (place, number if number < size else 2 * size - 1 - number)
        for place, number in enumerate(numbers)
    ]


def _dealt(x_BT: jax.Array) -> jax.Array:
    """`[B, T, ...]` of the row's halves that this device is to work on."""
    halves = jnp.split(x_BT, 2, axis=1)
    found = [jax.lax.ppermute(x, AXIS, owners(half)) for half, x in enumerate(halves)]
    return jnp.concatenate(found, axis=1)


def _collected(x_BT: jax.Array) -> jax.Array:
    """`[B, T, ...]` in the order of the row again."""
    found = []
    for half, x in enumerate(jnp.split(x_BT, 2, axis=1)):
        back = [(owner, place) for place, owner in owners(half)]
        found.append(jax.lax.ppermute(x, AXIS, back))
    return jnp.concatenate(found, axis=1)


def _handed_on(tree: Any) -> Any:
    """Every device's arrays, now on the next one."""
    size = axis_size(AXIS)
    ring = [(place, (place + 1) % size) for place in range(size)]
    return jax.tree.map(lambda x: jax.lax.ppermute(x, AXIS, ring), tree)


def _tiles(query_BTKGE: jax.Array, own: Block) -> Queries:
    return Queries(_cut(query_BTKGE), _cut(own.segment_ids_BS), _cut(own.place_S[None])[:, :, 0])


def _cut(x_BT: jax.Array) -> jax.Array:
    """`[P, I, B, Q, ...]`; what fills up the last tile of a half is left out again."""
    batch, length, *rest = x_BT.shape
    parts = _num_parts(length)
    size = min(TILE, length // parts)
    widths = [(0, 0), (0, 0), (0, -(length // parts) % size), *[(0, 0)] * len(rest)]
    padded = jnp.pad(x_BT.reshape(batch, parts, -1, *rest), widths)
    return jnp.moveaxis(padded.reshape(batch, parts, -1, size, *rest), 0, 2)


def _row(x_PIBQKGE: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """`[B, T, H, E]`, which is `shape`."""
    batch, length, heads, width = shape
    parts = x_PIBQKGE.shape[0]
    x = jnp.moveaxis(x_PIBQKGE, 2, 0).reshape(batch, parts, -1, heads, width)
    return x[:, :, : length // parts].reshape(shape)


def _grouped(x_BTHE: jax.Array, own: Block) -> jax.Array:
    """`[B, T, K, G, E]`."""
    batch, length, _, width = x_BTHE.shape
    return x_BTHE.reshape(batch, length, own.key_BSKE.shape[2], -1, width)


def _dot(form: str, left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.einsum(form, left, right, preferred_element_type=jnp.float32)
