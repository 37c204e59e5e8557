"""Kinds of attention by `attention_type`. Another kind is one class and one line of `KINDS`.

Axes: B batch, T query time, S key time, H heads, K key-value heads, E head features.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp

from rtdlm.config import AttentionConfig
from rtdlm.modules.attention.alibi import Places, alibi_slopes
from rtdlm.modules.attention.cache import KVCache
from rtdlm.modules.attention.dot_product import attend, attend_causally
from rtdlm.modules.attention.kind import Heads, Kind, Rows, Window
from rtdlm.modules.attention.mask import cache_mask, causal_mask
from rtdlm.modules.attention.neurons import Spiking
from rtdlm.modules.attention.recurrent import Delta, Linear
from rtdlm.modules.attention.ring import RingCache, attend_ring
from rtdlm.modules.attention.ring_attention import AXIS, attend_round
from rtdlm.modules.attention.scoring import PLAIN, Scoring
from rtdlm.modules.attention.sliding import attend_window, keys_computed
from rtdlm.modules.attention.sparse_kinds import Native, TopK
from rtdlm.modules.attention.splash import attend_splash, splash_serves
from rtdlm.modules.attention.stopped import StoppedCache
from rtdlm.parallel import axis_size, on_own_heads

QKV = tuple[jax.Array, jax.Array, jax.Array]
Masked = tuple[jax.Array, Places]
"""`[B, T, S]`, True where query t may read key s; and where both stand."""


@dataclass(frozen=True)
class Dense:
    """Every earlier token of the document: `mha`, `gqa` and `mqa`. O(T^2) time and memory."""

    in_tiles: ClassVar[bool] = True
    """TPUs may read a row by its documents alone."""
    scoring: Scoring = PLAIN

    def packed(self, positions_BT: jax.Array, segment_ids_BT: jax.Array) -> Rows:
        return Rows(positions_BT, causal_mask(segment_ids_BT), segment_ids_BT)

    def continued(self, positions_BT: jax.Array, lengths_B: jax.Array, cache: KVCache) -> Rows:
        mask_BTS = cache_mask(positions_BT, slots=cache.key_BKES.shape[-1])
        return Rows(positions_BT, mask_BTS, lengths_B=lengths_B)

    def read(self, heads: Heads, rows: Rows) -> jax.Array:
        assert rows.mask_BTS is not None
        # The mask of packed rows is what their documents say; one without them speaks for itself.
        by_documents = self.in_tiles and rows.segment_ids_BT is not None
        if by_documents and splash_serves(heads.query_BTHE, self.scoring):

            def attend_tiles(qkv: QKV, segment_ids_BT: jax.Array) -> jax.Array:
                return attend_splash(*qkv, segment_ids_BT, scoring=self.scoring)

            return on_own_heads(attend_tiles, heads.qkv, rows.segment_ids_BT)

        def attend_here(qkv: QKV, here: Masked) -> jax.Array:
            mask_BTS, places = here
            return attend_causally(*qkv, mask_BTS, self.scoring, places)

        alike = self.scoring.slopes_H is None
        given = self._given(heads, rows, rows.positions_BT)
        return on_own_heads(attend_here, *given, split_heads=alike)

    def extend(
        self, heads: Heads, rows: Rows, cache: KVCache | StoppedCache
    ) -> tuple[jax.Array, KVCache | StoppedCache]:
        dtype = heads.query_BTHE.dtype
        cache = cache.write(heads.key_BTKE, heads.value_BTKE, rows.positions_BT)
        key_BSKE, value_BSKE = cache.key_BSKE.astype(dtype), cache.value_BSKE.astype(dtype)
        heads = heads._replace(key_BTKE=key_BSKE, value_BTKE=value_BSKE)
        slot_1S = jnp.arange(key_BSKE.shape[1])[None]
        qkv, (mask_BTS, places) = self._given(heads, rows, slot_1S)
        return attend(*qkv, mask_BTS, self.scoring, places), cache

    def _given(self, heads: Heads, rows: Rows, positions_BS: jax.Array) -> tuple[QKV, Masked]:
        """What attention reads of keys and values that stand at these positions."""
        assert rows.mask_BTS is not None
        return heads.qkv, (rows.mask_BTS, Places(rows.positions_BT, positions_BS))

    def empty_cache(self, *shape: int, dtype: jnp.dtype) -> KVCache:
        return KVCache.empty(*shape, dtype=dtype)

    def keys_computed(self, length: int, *, head_dim: int) -> int:
        return length


@dataclass(frozen=True)
class Windowed(Dense):
    """`Dense` that reads a window of earlier tokens in the same softmax (arXiv 1901.02860)."""

    in_tiles: ClassVar[bool] = False
    window: Window | None = None

    def _given(self, heads: Heads, rows: Rows, positions_BS: jax.Array) -> tuple[QKV, Masked]:
        window, mask_BTS = self.window, rows.mask_BTS
        assert window is not None and mask_BTS is not None
        before_1W = jnp.arange(-window.key_BWKE.shape[1], 0)[None]
        before_BW = jnp.broadcast_to(before_1W, (len(positions_BS), before_1W.shape[1]))

        def behind(first: jax.Array, rest: jax.Array, axis: int = 1) -> jax.Array:
            return jnp.concatenate([first.astype(rest.dtype), rest], axis=axis)

        query, key, value = heads.qkv
        key, value = behind(window.key_BWKE, key), behind(window.value_BWKE, value)
        places = Places(rows.positions_BT, behind(before_BW, positions_BS))
        return (query, key, value), (behind(window.may_BTW, mask_BTS, 2), places)


@dataclass(frozen=True)
class Ring(Dense):
    """`Dense` with the tokens of a row split over the mesh axis `context`."""

    def packed(self, positions_BT: jax.Array, segment_ids_BT: jax.Array) -> Rows:
        if axis_size(AXIS) == 1:
            return super().packed(positions_BT, segment_ids_BT)
        return Rows(positions_BT, segment_ids_BT=segment_ids_BT)

    def read(self, heads: Heads, rows: Rows) -> jax.Array:
        if rows.mask_BTS is not None:
            return super().read(heads, rows)
        assert rows.segment_ids_BT is not None
        return attend_round(*heads.qkv, rows.segment_ids_BT, self.scoring)


@dataclass(frozen=True)
class Sliding:
    """The last `window` tokens of the document and its first `sinks`.

    O(T (window + sinks)) time, O(T) memory, O(1) to decode.
    """

    window: int
    scoring: Scoring = PLAIN
    sinks: int = 0

    def packed(self, positions_BT: jax.Array, segment_ids_BT: jax.Array) -> Rows:
        return Rows(positions_BT, segment_ids_BT=segment_ids_BT)

    def continued(self, positions_BT: jax.Array, lengths_B: jax.Array, cache: RingCache) -> Rows:
        del cache  # Its slots say themselves what they hold.
        return Rows(positions_BT, lengths_B=lengths_B)

    def read(self, heads: Heads, rows: Rows) -> jax.Array:
        assert rows.segment_ids_BT is not None

        def attend_here(qkv: QKV, segment_ids_BT: jax.Array) -> jax.Array:
            return attend_window(
                *qkv, segment_ids_BT,
                window=self.window, sinks=self.sinks, scoring=self.scoring,
            )  # fmt: skip

        alike = self.scoring.slopes_H is None
        return on_own_heads(attend_here, heads.qkv, rows.segment_ids_BT, split_heads=alike)

    def extend(self, heads: Heads, rows: Rows, cache: RingCache) -> tuple[jax.Array, RingCache]:
        assert rows.lengths_B is not None
        return attend_ring(
            *heads.qkv, positions_BT=rows.positions_BT, lengths_B=rows.lengths_B, cache=cache,
            sinks=self.sinks, scoring=self.scoring,
        )  # fmt: skip

    def empty_cache(self, *shape: int, dtype: jnp.dtype) -> RingCache:
        *rows, tokens, heads, features = shape
        slots = min(tokens, self.sinks + self.window)
        return RingCache.empty(*rows, slots, heads, features, dtype=dtype)

    def keys_computed(self, length: int, *, head_dim: int) -> int:
        return keys_computed(length, window=self.window, sinks=self.sinks)


def with_alibi(kind: Kind, num_heads: int) -> Kind:
    """`kind`, whose `num_heads` heads lower the scores of far keys; only for kinds with scores."""
    assert isinstance(kind, Dense | Sliding)
    return replace(kind, scoring=kind.scoring._replace(slopes_H=alibi_slopes(num_heads)))


def with_window(kind: Kind, window: Window) -> Kind:
    """`kind`, whose queries read `window` too; only for kinds that read all of a document."""
    assert type(kind) is Dense
    return Windowed(kind.scoring, window)


def _scoring(config: AttentionConfig) -> Scoring:
    return Scoring(config.scale, config.soft_cap)


def _sparse(config: AttentionConfig) -> Kind:
    if config.sparse_form == "topk":
        return TopK(config.choices, config.num_global, config.reach)
    return Native(config.block_size, config.choices, config.reach)


DENSE = Dense()
KINDS: dict[str, Callable[[AttentionConfig], Kind]] = {
    "mha": lambda config: Dense(_scoring(config)),
    "gqa": lambda config: Dense(_scoring(config)),
    "mqa": lambda config: Dense(_scoring(config)),
    "ring": lambda config: Ring(_scoring(config)),
    "sliding": lambda config: Sliding(config.reach, _scoring(config), config.num_sinks),
    "sparse": _sparse,
    "linear": lambda _: Linear(),
    "delta": lambda _: Delta(),
    "spiking": lambda _: Spiking(),
}
"""`attention_type` -> the kind that a config's section describes."""
