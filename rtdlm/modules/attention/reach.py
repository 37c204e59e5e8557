"""What a block of queries of sliding-window attention may read.

A block of C queries reads the span of C keys beside it and the P >= window - 1 before them. With
attention sinks (StreamingLLM, arXiv 2309.17453) the first n tokens of a document stay readable. Of
the documents in a block only the first began before the span, so that the sinks of one document,
that of the span's first key, are all that a block needs beside its span.

Axes: B batch, T time, I blocks, C queries of a block, P keys before a block, N' places for sinks,
S = N' + P + C keys of a block, sinks first, K key-value heads, E head features.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rtdlm.modules.attention.mask import first_tokens
from rtdlm.modules.attention.scoring import PLAIN, Scoring

_LANES = 16
NO_SEGMENT = -1


class Plan(NamedTuple):
    """What is static: tokens read, queries of a block, how they score, first tokens that stay."""

    window: int
    block: int
    scoring: Scoring = PLAIN
    sinks: int = 0

    @property
    def before(self) -> int:
        """P."""
        return round_up(self.window - 1, _LANES)

    @property
    def apart(self) -> int:
        """N', of which `sinks` are in use."""
        return round_up(self.sinks, _LANES)

    @property
    def span(self) -> int:
        """P + C."""
        return self.before + self.block

    @property
    def keys(self) -> int:
        """S."""
        return self.apart + self.span


def make_plan(
    length: int, *, window: int, block: int, sinks: int = 0, scoring: Scoring = PLAIN
) -> Plan:
    """The plan for rows of `length` tokens, of which a window may be more than all."""
    block = min(block, round_up(length, _LANES))
    return Plan(min(window, length), block, scoring, sinks if window < length else 0)


def round_up(count: int, multiple: int) -> int:
    """The next multiple."""
    return -(-count // multiple) * multiple


class Reach(NamedTuple):
    """Who reads whom, made beforehand: cut out in the loop it would keep that from vectorising."""

    mask_IBCS: jax.Array
    """True where query c of the block may read key s of the block."""
    place_IBS: jax.Array | None
    """int32; each key's place less the block's first. None where no score asks how far it is."""


def sink_places(plan: Plan, first_BT: jax.Array) -> jax.Array:
    """`[B, I, N']`: places of the sinks before each block's span; T where there is none."""
    length = first_BT.shape[1]
    span_I = jnp.arange(0, length, plan.block) - plan.before
    first_BI = first_BT[:, jnp.maximum(span_I, 0)]
    number_N = jnp.arange(plan.apart)
    place_BIN = first_BI[:, :, None] + number_N[None, None]
    exists = (place_BIN < span_I[None, :, None]) & (number_N < plan.sinks)[None, None]
    return jnp.where(exists, place_BIN, length)


def reach(plan: Plan, segment_ids_BT: jax.Array) -> Reach:
    """What every block reads."""
    starts = jnp.arange(0, segment_ids_BT.shape[1], plan.block)
    first_BT = first_tokens(segment_ids_BT)
    sink_IBN = jnp.swapaxes(sink_places(plan, first_BT), 0, 1)
    near_IBCS = _span_mask(plan, segment_ids_BT, first_BT)
    own_IBC1 = _spans(plan, segment_ids_BT)[:, :, plan.before :, None]
    nowhere = NO_SEGMENT - 1
    segment = jax.vmap(lambda ids, at: ids.at[at].get(mode="fill", fill_value=nowhere))
    apart_IBN = jax.vmap(segment, in_axes=(None, 0))(segment_ids_BT, sink_IBN)
    mask = jnp.concatenate([own_IBC1 == apart_IBN[:, :, None], near_IBCS], axis=-1)
    if plan.scoring.slopes_H is None:
        return Reach(mask, None)
    apart = sink_IBN - starts[:, None, None]
    span = jnp.broadcast_to(_span(plan)[None, None], (*apart.shape[:2], plan.span))
    return Reach(mask, jnp.concatenate([apart, span], axis=-1))


def _span(plan: Plan) -> jax.Array:
    """`[P + C]`: places of a block's keys, less the block's first."""
    return jnp.arange(plan.span) - plan.before


def _spans(plan: Plan, x_BT: jax.Array) -> jax.Array:
    """`[I, B, P + C]`: what each block's keys have."""
    padded = jnp.pad(x_BT, ((0, 0), (plan.before, 0)), constant_values=NO_SEGMENT)
    starts = range(0, x_BT.shape[1], plan.block)
    return jnp.stack([padded[:, start : start + plan.span] for start in starts])


def _span_mask(plan: Plan, segment_ids_BT: jax.Array, first_BT: jax.Array) -> jax.Array:
    """`[I, B, C, P + C]`: keys of the span in the query's document, in its window or sinks."""
    segments_IBS = _spans(plan, segment_ids_BT)
    same = segments_IBS[:, :, plan.before :, None] == segments_IBS[:, :, None]
    back_CS = jnp.arange(plan.block)[:, None] - _span(plan)[None]
    near = ((back_CS >= 0) & (back_CS < plan.window))[None, None]
    if plan.sinks:
        offset_IBS = _spans(plan, jnp.arange(segment_ids_BT.shape[1])[None] - first_BT)
        near = near | ((back_CS >= 0)[None, None] & (offset_IBS < plan.sinks)[:, :, None])
    return near & same


def take_sinks(x_BTKE: jax.Array, sink_BIN: jax.Array) -> jax.Array:
    """`[I, R, N', E]`: keys or values of each block's sinks, zeros where there is none."""
    batch, _, kv_heads, width = x_BTKE.shape
    taken = jax.vmap(lambda x, at: x.at[at].get(mode="fill", fill_value=0))(x_BTKE, sink_BIN)
    blocks, places = sink_BIN.shape[1:]
    return jnp.einsum("BINKE->IBKNE", taken).reshape(blocks, batch * kv_heads, places, width)
