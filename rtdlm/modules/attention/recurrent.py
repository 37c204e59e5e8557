"""Kinds of attention whose memory does not grow: O(T) time to train, O(1) to decode a token.

`Linear` is the kernel feature map's sum (arXiv 2006.16236). `Delta` is the gated delta rule (arXiv
2412.06464): with x the layer's input and one number each for every head,

    log a = -exp(r) softplus(x W_a + c)     b = sigmoid(x W_b)

queries and keys have length 1, and each head's read is normalised (RMSNorm), since the state has no
denominator; there are as many key-value heads as query heads. Tokens are in order in either state,
so that neither needs positions, though both take rotated queries and keys.

Axes: B batch, T time, D model, H heads, K key-value heads, E head features.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from rtdlm.modules.attention.kind import Heads, Rows
from rtdlm.modules.attention.linear import CHUNK as LINEAR_CHUNK
from rtdlm.modules.attention.linear import LinearState, linear_attention, linear_step
from rtdlm.modules.primitives import (
    DeltaState,
    Projection,
    RMSNorm,
    gated_delta,
    gated_delta_step,
    unit,
    where_rows,
)
from rtdlm.modules.primitives.delta_rule import CHUNK as DELTA_CHUNK
from rtdlm.parallel import on_own_heads

FAINT = 1e-2
"""Mean square below which a read fades instead of being blown up, its rounding with it: a query
that stands at right angles to all keys reads nothing."""
SHORTEST, LONGEST = 1e-3, 1e-1
"""Range of the time step that decays start with, as in Mamba 2 (arXiv 2405.21060)."""


class _Recurrent:
    """What both share: rows, and which tokens of a continued row count."""

    def packed(self, positions_BT: jax.Array, segment_ids_BT: jax.Array) -> Rows:
        return Rows(positions_BT, segment_ids_BT=segment_ids_BT)

    def continued(self, positions_BT: jax.Array, lengths_B: jax.Array, cache: object) -> Rows:
        del cache
        return Rows(positions_BT, lengths_B=lengths_B)


def _counts(rows: Rows) -> jax.Array:
    """`[B, T]`: the first `lengths_B` tokens of each row."""
    assert rows.lengths_B is not None
    return jnp.arange(rows.positions_BT.shape[1])[None] < rows.lengths_B[:, None]


@dataclass(frozen=True)
class Linear(_Recurrent):
    """A sum of outer products under elu(x) + 1, divided by its total."""

    def read(self, heads: Heads, rows: Rows) -> jax.Array:
        assert rows.segment_ids_BT is not None
        return on_own_heads(_linear, heads.qkv, rows.segment_ids_BT)

    def extend(self, heads: Heads, rows: Rows, cache: LinearState) -> tuple[jax.Array, LinearState]:
        counts_BT, one_row = _counts(rows), jnp.ones(rows.positions_BT.shape, jnp.int32)
        if rows.positions_BT.shape[1] > 1:
            return linear_attention(*heads.qkv, one_row, state=cache, counts_BT=counts_BT)
        query, key, value = (x[:, 0] for x in heads.qkv)
        read_BHE, after = linear_step(query, key, value, cache)
        return read_BHE[:, None], where_rows(counts_BT[:, 0], after, cache)

    def empty_cache(self, *shape: int, dtype: jnp.dtype) -> LinearState:
        *rows, _, heads, features = shape
        return LinearState.empty(*rows, heads, features, features)

    def keys_computed(self, length: int, *, head_dim: int) -> int:
        """A chunk's keys; the state is read once for head_dim / 2 keys, and written for as many."""
        return min(length, LINEAR_CHUNK) + head_dim


@dataclass(frozen=True)
class Delta(_Recurrent):
    """A state that decays, and in which a key's new value takes the place of its old one."""

    def read(self, heads: Heads, rows: Rows) -> jax.Array:
        assert rows.segment_ids_BT is not None
        return _normalised(on_own_heads(_delta, _delta_inputs(heads), rows.segment_ids_BT))

    def extend(self, heads: Heads, rows: Rows, cache: DeltaState) -> tuple[jax.Array, DeltaState]:
        counts_BT, one_row = _counts(rows), jnp.ones(rows.positions_BT.shape, jnp.int32)
        query, key, value, decay_BTH, write_BTH = _delta_inputs(heads)
        if rows.positions_BT.shape[1] > 1:
            read, after = gated_delta(
                query, key, value, decay_BTH, write_BTH, one_row, state=cache, counts_BT=counts_BT
            )
            return _normalised(read), after
        read_BHE, after = gated_delta_step(
            query[:, 0],
            key[:, 0],
            value[:, 0],
            decay_BTH[:, 0],
            write_BTH[:, 0],
            cache,
            counts_B=counts_BT[:, 0],
        )
        return _normalised(read_BHE[:, None]), after

    def empty_cache(self, *shape: int, dtype: jnp.dtype) -> DeltaState:
        *rows, _, heads, features = shape
        return DeltaState.empty(*rows, heads, features, features)

    def keys_computed(self, length: int, *, head_dim: int) -> int:
        """Four products of a chunk's keys in place of two, and three with the state."""
        return 2 * min(length, DELTA_CHUNK) + 3 * head_dim // 2


def _linear(qkv: tuple[jax.Array, ...], segment_ids_BT: jax.Array) -> jax.Array:
    query, key, value = qkv
    return linear_attention(query, key, value, segment_ids_BT)[0]


def _delta(inputs: tuple[jax.Array, ...], segment_ids_BT: jax.Array) -> jax.Array:
    query, key, value, decay_BTH, write_BTH = inputs
    return gated_delta(query, key, value, decay_BTH, write_BTH, segment_ids_BT)[0]


def _delta_inputs(
    heads: Heads,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]:
    """Queries, keys and values of as many heads, log decay and write; see `gated_delta`."""
    query, key, value = heads.qkv
    assert heads.x_BTD is not None
    count = query.shape[2]
    # In float32: the decay of hundreds of tokens is a product of numbers near one.
    x_BTD = heads.x_BTD.astype(jnp.float32)
    shape = (x_BTD.shape[-1], count)
    opened_BTH = Projection("BTD,DH->BTH", shape=shape, name="decay")(x_BTD)
    rate_H = hk.get_parameter("decay_rate", (count,), jnp.float32, _log_rates)
    shift_H = hk.get_parameter("decay_shift", (count,), jnp.float32, _shifts)
    decay_BTH = -jnp.exp(rate_H)[None, None] * jax.nn.softplus(opened_BTH + shift_H[None, None])
    write_BTH = jax.nn.sigmoid(Projection("BTD,DH->BTH", shape=shape, name="write")(x_BTD))
    return unit(query), unit(key), value, decay_BTH, write_BTH


def _normalised(read_BTHE: jax.Array) -> jax.Array:
    return RMSNorm(epsilon=FAINT, name="read_norm")(read_BTHE)


def _log_rates(shape: Sequence[int], dtype: Any) -> jax.Array:
    """Rates from 1 to 16, evenly by their logarithm."""
    return jnp.linspace(0.0, np.log(16.0), shape[0], dtype=dtype)


def _shifts(shape: Sequence[int], dtype: Any) -> jax.Array:
    """softplus^-1 of time steps spread evenly by their logarithm."""
    steps = jnp.exp(jnp.linspace(np.log(SHORTEST), np.log(LONGEST), shape[0], dtype=dtype))
    return steps + jnp.log(-jnp.expm1(-steps))
