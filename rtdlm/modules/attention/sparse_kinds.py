"""Kinds of attention that read a part of what lies behind the window, which a query chooses.

`Native` is native sparse attention (arXiv 2502.11089): its three branches are weighed by gates of
each token and head, g = sigmoid(x W_g). `TopK` chooses single keys by their exact scores.

Axes: B batch, T time, S key time or slots, D model, H heads, K key-value heads, E head features.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from rtdlm.modules.attention.block_cache import BlockCache, attend_blocks
from rtdlm.modules.attention.cache import KVCache
from rtdlm.modules.attention.kind import Heads, Rows
from rtdlm.modules.attention.mask import cache_mask, causal_mask, first_tokens
from rtdlm.modules.attention.sliding import keys_computed
from rtdlm.modules.attention.sparse import NUM_BRANCHES, sparse_branches
from rtdlm.modules.attention.topk import attend_topk
from rtdlm.modules.primitives import PASSES, TILE, Projection, most_tiles
from rtdlm.parallel import on_own_heads


@dataclass(frozen=True)
class Native:
    """Means of blocks, a few whole blocks and a window. O(T (T / block + chosen + window))."""

    block: int
    num_chosen: int
    window: int

    def packed(self, positions_BT: jax.Array, segment_ids_BT: jax.Array) -> Rows:
        return Rows(positions_BT, segment_ids_BT=segment_ids_BT)

    def continued(self, positions_BT: jax.Array, lengths_B: jax.Array, cache: BlockCache) -> Rows:
        del cache
        return Rows(positions_BT, lengths_B=lengths_B)

    def read(self, heads: Heads, rows: Rows) -> jax.Array:
        assert rows.segment_ids_BT is not None
        given = (*heads.qkv, _gates(heads))
        return on_own_heads(self._read, given, rows.segment_ids_BT, split_groups=False)

    def _read(self, given: tuple[jax.Array, ...], segment_ids_BT: jax.Array) -> jax.Array:
        query, key, value, gates_BTHN = given
        branches = sparse_branches(
            query, key, value, segment_ids_BT,
            block=self.block, num_chosen=self.num_chosen, window=self.window,
        )  # fmt: skip
        return branches.gated(gates_BTHN)

    def extend(self, heads: Heads, rows: Rows, cache: BlockCache) -> tuple[jax.Array, BlockCache]:
        cache = cache.write(heads.key_BTKE, heads.value_BTKE, rows.positions_BT, block=self.block)
        branches = attend_blocks(
            heads.query_BTHE, rows.positions_BT, cache,
            block=self.block, num_chosen=self.num_chosen, window=self.window,
        )  # fmt: skip
        return branches.gated(_gates(heads)), cache

    def empty_cache(self, *shape: int, dtype: jnp.dtype) -> BlockCache:
        return BlockCache.empty(*shape, block=self.block, dtype=dtype)

    def keys_computed(self, length: int, *, head_dim: int) -> int:
        """The window's, a mean a block, and tiles of chosen blocks, one a block not full."""
        near = keys_computed(length, window=self.window)
        count = length // self.block
        if count == 0:
            return near
        pairs = length * min(self.num_chosen, count)
        slots = most_tiles(pairs, kinds=count, tile=TILE) * TILE
        return near + count + slots * self.block // length


@dataclass(frozen=True)
class TopK:
    """A window, the first tokens of the document, and the best single keys. O(T^2), see `topk`."""

    num_chosen: int
    num_global: int
    window: int

    def packed(self, positions_BT: jax.Array, segment_ids_BT: jax.Array) -> Rows:
        return Rows(positions_BT, causal_mask(segment_ids_BT), segment_ids_BT)

    def continued(self, positions_BT: jax.Array, lengths_B: jax.Array, cache: KVCache) -> Rows:
        mask_BTS = cache_mask(positions_BT, slots=cache.key_BKES.shape[-1])
        return Rows(positions_BT, mask_BTS, lengths_B=lengths_B)

    def read(self, heads: Heads, rows: Rows) -> jax.Array:
        assert rows.segment_ids_BT is not None
        batch, length = rows.segment_ids_BT.shape
        time_BT = jnp.broadcast_to(jnp.arange(length)[None], (batch, length))
        first_BS = time_BT - first_tokens(rows.segment_ids_BT) < self.num_global

        def read(qkv: tuple[jax.Array, ...], here: tuple[jax.Array, ...]) -> jax.Array:
            query, key, value = qkv
            return self._read(query, key, value, *here)

        return on_own_heads(read, heads.qkv, (rows.mask_BTS, time_BT, first_BS))

    def extend(self, heads: Heads, rows: Rows, cache: KVCache) -> tuple[jax.Array, KVCache]:
        dtype = heads.query_BTHE.dtype
        cache = cache.write(heads.key_BTKE, heads.value_BTKE, rows.positions_BT)
        key_BSKE, value_BSKE = cache.key_BSKE.astype(dtype), cache.value_BSKE.astype(dtype)
        first_BS = jnp.arange(key_BSKE.shape[1])[None] < self.num_global
        read_BTHE = self._read(
            heads.query_BTHE, key_BSKE, value_BSKE, rows.mask_BTS, rows.positions_BT, first_BS
        )
        return read_BTHE, cache

    def _read(
        self,
        query_BTHE: jax.Array,
        key_BSKE: jax.Array,
        value_BSKE: jax.Array,
        may_BTS: jax.Array | None,
        place_BT: jax.Array,
        first_BS: jax.Array,
    ) -> jax.Array:
        """`place_BT` says where the queries stand among the S keys."""
        assert may_BTS is not None
        back_BTS = place_BT[:, :, None] - jnp.arange(key_BSKE.shape[1])[None, None]
        always_BTS = may_BTS & ((back_BTS < self.window) | first_BS[:, None])
        return attend_topk(
            query_BTHE, key_BSKE, value_BSKE, may_BTS, always_BTS, num_chosen=self.num_chosen
        )

    def empty_cache(self, *shape: int, dtype: jnp.dtype) -> KVCache:
        return KVCache.empty(*shape, dtype=dtype)

    def keys_computed(self, length: int, *, head_dim: int) -> int:
        """All keys, and the search of their scores; a key is 2 x head_dim multiplications."""
        return length + round(length * PASSES / (2 * head_dim))


def _gates(heads: Heads) -> jax.Array:
    """`[B, T, H, 3]`: weights of means, chosen blocks and window, in (0, 1)."""
    assert heads.x_BTD is not None
    shape = (heads.x_BTD.shape[-1], heads.query_BTHE.shape[2], NUM_BRANCHES)
    return jax.nn.sigmoid(Projection("BTD,DHN->BTHN", shape=shape, name="gates")(heads.x_BTD))
