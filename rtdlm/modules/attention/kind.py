"""What a kind of attention is: how queries, keys and values become what is read.

A kind works on what `GroupedQueryAttention` projects: within packed rows, and with a cache that
continues rows one after another.

Axes: B batch, T query time, S key time, D model, H heads, K key-value heads, E head features.
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from rtdlm.modules.attention.block_cache import BlockCache
from rtdlm.modules.attention.cache import KVCache
from rtdlm.modules.attention.linear import LinearState
from rtdlm.modules.attention.ring import RingCache
from rtdlm.modules.attention.spike_cache import SpikeCache
from rtdlm.modules.attention.spiking import SpikeStatistics
from rtdlm.modules.attention.stopped import StoppedCache
from rtdlm.modules.primitives import DeltaState

Cache = KVCache | RingCache | BlockCache | LinearState | DeltaState | SpikeCache | StoppedCache
"""One layer's memory of earlier tokens."""


class Heads(NamedTuple):
    """What a token asks, is asked for, and gives."""

    query_BTHE: jax.Array
    key_BTKE: jax.Array
    value_BTKE: jax.Array
    x_BTD: jax.Array | None = None
    """What they are made from, for kinds with projections of their own."""

    @property
    def qkv(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries, keys and values."""
        return self.query_BTHE, self.key_BTKE, self.value_BTKE


class Rows(NamedTuple):
    """How the tokens of one call relate; the same for every layer, so made once."""

    positions_BT: jax.Array
    """int32; within the document."""
    mask_BTS: jax.Array | None = None
    """True where query t may read key s of the row, or slot s of the cache; None if the kind makes
    no such table."""
    segment_ids_BT: jax.Array | None = None
    """int32; None with a cache, whose rows are one document each."""
    lengths_B: jax.Array | None = None
    """int32; tokens of each row that count, the first ones. None without a cache."""


class Window(NamedTuple):
    """Tokens that stand before a call's, oldest first, at positions -W to -1."""

    key_BWKE: jax.Array
    """Rotated to these positions, where keys are."""
    value_BWKE: jax.Array
    may_BTW: jax.Array
    """bool; True where query t may read slot w."""


class Kind(Protocol):
    """One kind of attention."""

    def packed(self, positions_BT: jax.Array, segment_ids_BT: jax.Array) -> Rows:
        """Rows of packed documents."""

    def continued(self, positions_BT: jax.Array, lengths_B: jax.Array, cache: Any) -> Rows:
        """Rows that continue what `cache` holds; it may have a leading axis of layers."""

    def read(self, heads: Heads, rows: Rows) -> jax.Array:
        """`[B, T, H, E]`: what each query reads within its document."""

    def extend(self, heads: Heads, rows: Rows, cache: Any) -> tuple[jax.Array, Cache]:
        """The same with what `cache` holds, and the cache that now holds these tokens too."""

    def empty_cache(self, *shape: int, dtype: jnp.dtype) -> Cache:
        """Nothing, for `shape`: (layers,) batch, tokens, key-value heads, head features."""

    def keys_computed(self, length: int, *, head_dim: int) -> int:
        """Keys that a query of a row of `length` tokens is multiplied by, which is its cost.

        A kind that does other work says how many keys would cost as much.
        """


@runtime_checkable
class Measured(Kind, Protocol):
    """A kind that also tells how sparse it was."""

    def measure(self, heads: Heads, rows: Rows) -> tuple[jax.Array, SpikeStatistics]:
        """`read`, and its statistics."""
