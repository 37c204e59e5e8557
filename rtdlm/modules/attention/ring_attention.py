"""Ring attention (arXiv 2310.01889): rows longer than one device holds.

The tokens of a row lie in n blocks along the mesh axis `context`. Every device keeps its queries
and hands its keys and values on to the next, n times, so that each query meets all of them while no
device ever holds more than two blocks. What a query has read so far is a running softmax:

    m' = max(m, max_s score_s)     y' = y e^(m - m') + sum_s e^(score_s - m') v_s     (z likewise)

and y / z in the end. The gradient goes round once more: weights are made again from the kept
m + log z, and what belongs to a block of keys travels with it until it is home.

Memory a device is 1 / n of the row's, at T / n x T / n scores at a time. Every device works n
times, whatever the causal mask leaves it to read: one that skipped would wait for the others.

Axes: B batch, T time, S keys of a block, H heads, K key-value heads, G = H / K, E head features.
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


class _Kept(NamedTuple):
    """What the gradient needs."""

    query_BTHE: jax.Array
    own: Block
    read_BTHE: jax.Array
    log_sum_BKGT: jax.Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(scoring: Scoring, query_BTHE: jax.Array, own: Block) -> jax.Array:
    return _forward(scoring, query_BTHE, own)[0]


def _forward(scoring: Scoring, query_BTHE: jax.Array, own: Block) -> tuple[jax.Array, _Kept]:
    query = _grouped(query_BTHE, own) * jnp.asarray(
        scoring.scale_for(query_BTHE.shape[-1]), query_BTHE.dtype
    )

    def meet(state: Meeting, _: None) -> tuple[Meeting, None]:
        block, top, total, read = state
        scores = _scores(scoring, query, own, block)[0]
        higher = jnp.maximum(top, jnp.max(scores, axis=-1))
        weights, kept = jnp.exp(scores - higher[..., None]), jnp.exp(top - higher)
        total = total * kept + jnp.sum(weights, axis=-1)
        weights = weights.astype(query.dtype)
        found = _dot("BKGTS,BSKE->BKGTE", weights, block.value_BSKE)
        return (_handed_on(block), higher, total, read * kept[..., None] + found), None

    # Nothing read yet, as a value of its own on each device.
    nothing = jnp.zeros_like(jnp.einsum("BTKGE->BKGTE", query), jnp.float32)
    start = (own, nothing[..., 0] + MASKED, nothing[..., 0], nothing)
    (_, top, total, read), _ = jax.lax.scan(meet, start, length=axis_size(AXIS))
    read = jnp.einsum("BKGTE->BTKGE", read / total[..., None])
    read_BTHE = read.reshape(query_BTHE.shape).astype(query_BTHE.dtype)
    return read_BTHE, _Kept(query_BTHE, own, read_BTHE, top + jnp.log(total))


def _backward(scoring: Scoring, kept: _Kept, dy_BTHE: jax.Array) -> tuple[jax.Array, Block]:
    own, dtype = kept.own, kept.query_BTHE.dtype
    scale = scoring.scale_for(kept.query_BTHE.shape[-1])
    query = _grouped(kept.query_BTHE, own) * jnp.asarray(scale, dtype)
    dy = _grouped(dy_BTHE, own)
    read = _grouped(kept.read_BTHE, own)
    inner = jnp.einsum("BTKGE,BTKGE->BKGT", dy, read, preferred_element_type=jnp.float32)

    def meet(state: Meeting, _: None) -> tuple[Meeting, None]:
        block, dkey, dvalue, dquery = state
        scores, slope = _scores(scoring, query, own, block)
        weights = jnp.exp(scores - kept.log_sum_BKGT[..., None])
        dweights = _dot("BTKGE,BSKE->BKGTS", dy, block.value_BSKE)
        dscores = (weights * (dweights - inner[..., None]) * slope).astype(dtype)
        dquery += _dot("BKGTS,BSKE->BTKGE", dscores, block.key_BSKE)
        dkey += _dot("BKGTS,BTKGE->BSKE", dscores, query)
        dvalue += _dot("BKGTS,BTKGE->BSKE", weights.astype(dtype), dy)
        return (*_handed_on((block, dkey, dvalue)), dquery), None

    dkey, dvalue, dquery = (
        jnp.zeros_like(x, jnp.float32) for x in (own.key_BSKE, own.value_BSKE, query)
    )
    start: Meeting = (own, dkey, dvalue, dquery)
    (_, dkey, dvalue, dquery), _ = jax.lax.scan(meet, start, length=axis_size(AXIS))
    dquery = (dquery * scale).reshape(dy_BTHE.shape).astype(dtype)
    return dquery, _tree(dkey.astype(dtype), dvalue.astype(dtype), None, None)


_attend.defvjp(_forward, _backward)


def _scores(
    scoring: Scoring, query_BTKGE: jax.Array, own: Block, block: Block
) -> tuple[jax.Array, jax.Array | float]:
    """Masked scores `[B, K, G, T, S]` of a block, and their slopes if they are bounded."""
    bounded = scoring.bound(_dot("BTKGE,BSKE->BKGTS", query_BTKGE, block.key_BSKE))
    back_BTS = (own.place_S[:, None] - block.place_S[None])[None]
    scores = scoring.lower(bounded, back_BTS)
    same_BTS = own.segment_ids_BS[:, :, None] == block.segment_ids_BS[:, None]
    visible = (same_BTS & (back_BTS >= 0))[:, None, None]
    return jnp.where(visible, scores, MASKED), scoring.slope(bounded)


def _handed_on(tree: Any) -> Any:
    """Every device's arrays, now on the next one."""
    size = axis_size(AXIS)
    ring = [(place, (place + 1) % size) for place in range(size)]
    return jax.tree.map(lambda x: jax.lax.ppermute(x, AXIS, ring), tree)


def _grouped(x_BTHE: jax.Array, own: Block) -> jax.Array:
    """`[B, T, K, G, E]`."""
    batch, length, _, width = x_BTHE.shape
    return x_BTHE.reshape(batch, length, own.key_BSKE.shape[2], -1, width)


def _dot(form: str, left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.einsum(form, left, right, preferred_element_type=jnp.float32)
