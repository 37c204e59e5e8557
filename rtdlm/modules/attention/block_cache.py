"""Cached form of native sparse attention: all keys and values, and the means of complete blocks.

Block m of a row holds positions m L to m L + L - 1. Whenever a token is written its block's mean
is made anew, so that it is right once the block's last token stands; before that nobody may read
it. A single token reads M means, k L chosen slots and W near ones, gathered: the keys that it is
multiplied by do not grow with the row, only the means do. Several tokens at once (a prompt) are
masked instead, and cost what dense attention costs.

Axes: B batch, T new tokens, S slots, H heads, K key-value heads, G = H / K, R = B * K rows, E head
features, M blocks, L tokens of a block, k chosen blocks, W window, N slots that are read.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rtdlm.modules.attention.cache import KVCache
from rtdlm.modules.attention.dot_product import attend
from rtdlm.modules.attention.sparse import Branches, attend_means, choose_blocks, mean_block


class BlockCache(NamedTuple):
    """One layer's keys, values and means; a stack of layers carries a leading axis more."""

    kv: KVCache
    key_BKME: jax.Array
    """Mean keys of blocks."""
    value_BKME: jax.Array

    @classmethod
    def empty(cls, *shape: int, block: int, dtype: jnp.dtype | type = jnp.float32) -> "BlockCache":
        """Zeros of `shape`, (layers,) batch, slots, key-value heads, head features."""
        *rows, slots, heads, features = shape
        means = jnp.zeros((*rows, heads, slots // block, features), dtype)
        return cls(KVCache.empty(*shape, dtype=dtype), means, means)

    def write(
        self, key_BTKE: jax.Array, value_BTKE: jax.Array, positions_BT: jax.Array, *, block: int
    ) -> "BlockCache":
        """Stores new keys and values at each row's own positions, and the means of their blocks."""
        kv = self.kv.write(key_BTKE, value_BTKE, positions_BT)
        if positions_BT.shape[1] > 1:
            key_BKSE = jnp.swapaxes(kv.key_BKES, -1, -2)
            return BlockCache(kv, *(_means(x, block) for x in (key_BKSE, kv.value_BKSE)))
        block_B = positions_BT[:, 0] // block
        slot_BL = block_B[:, None] * block + jnp.arange(block)[None]
        rows = jnp.arange(positions_BT.shape[0])

        def renewed(means_BKME: jax.Array, x_BKLE: jax.Array) -> jax.Array:
            return means_BKME.at[rows, :, block_B].set(mean_block(x_BKLE), mode="drop")

        key_BKLE, value_BKLE = _gather(kv, slot_BL)
        return BlockCache(
            kv, renewed(self.key_BKME, key_BKLE), renewed(self.value_BKME, value_BKLE)
        )


def attend_blocks(
    query_BTHE: jax.Array,
    positions_BT: jax.Array,
    cache: BlockCache,
    *,
    block: int,
    num_chosen: int,
    window: int,
) -> Branches:
    """What each query reads of a cache that holds it; see `sparse_branches`.

    Args:
        query_BTHE: queries.
        positions_BT: int32; their positions, which are those of their slots.
        cache: with their own keys and values in it.
        block: tokens of a block.
        num_chosen: blocks that a query reads in full.
        window: tokens that it reads in any case, itself included.
    """
    batch, length, heads, width = query_BTHE.shape
    kv_heads, slots = cache.kv.value_BKSE.shape[1:3]
    query_BTKGE = query_BTHE.reshape(batch, length, kv_heads, heads // kv_heads, width)
    query_RTGE = jnp.swapaxes(query_BTKGE, 1, 2).reshape(batch * kv_heads, length, -1, width)
    position_RT1 = jnp.repeat(positions_BT, kv_heads, axis=0)[..., None]

    def heads_last(x_RTGE: jax.Array) -> jax.Array:
        x_BKTGE = x_RTGE.reshape(batch, kv_heads, length, -1, width)
        return jnp.swapaxes(x_BKTGE, 1, 2).reshape(query_BTHE.shape)

    def read(slot_RTN: jax.Array, may_RTN: jax.Array) -> jax.Array:
        return heads_last(_read(query_RTGE, cache.kv, slot_RTN, may_RTN))

    near = read(*_near_slots(position_RT1, slots, window))
    count = cache.key_BKME.shape[2]
    if count == 0:
        nothing = jnp.zeros_like(query_BTHE)
        chosen_RTk = jnp.zeros((batch * kv_heads, length, 0), jnp.int32)
        return Branches(nothing, nothing, near, chosen_RTk)
    past_RTM, far_RTM = (
        jnp.arange(count)[None, None] * block <= position_RT1 - back
        for back in (block - 1, max(window, block))
    )
    scaled_RTGE = query_RTGE * jnp.asarray(width**-0.5, query_RTGE.dtype)
    key_RME, value_RME = (
        x.reshape(-1, count, width).astype(query_BTHE.dtype)
        for x in (cache.key_BKME, cache.value_BKME)
    )
    means, weights_RTM = attend_means(scaled_RTGE, key_RME, value_RME, past_RTM)
    chosen_RTk = choose_blocks(weights_RTM, far_RTM, num_chosen=num_chosen)
    far = read(*_chosen_slots(chosen_RTk, slots, block))
    return Branches(heads_last(means), far, near, chosen_RTk)


def _near_slots(position_RT1: jax.Array, slots: int, window: int) -> tuple[jax.Array, jax.Array]:
    """Slots for `_read`, and which of them are within the window, both `[R, T, N]`."""
    if position_RT1.shape[1] == 1:
        slot_RTN = position_RT1 - jnp.arange(min(window, slots))[None, None]
        return slot_RTN, slot_RTN >= 0
    slot_RTS = jnp.broadcast_to(jnp.arange(slots)[None, None], (*position_RT1.shape[:2], slots))
    back_RTS = position_RT1 - slot_RTS
    return slot_RTS, (back_RTS >= 0) & (back_RTS < window)


def _chosen_slots(chosen_RTk: jax.Array, slots: int, block: int) -> tuple[jax.Array, jax.Array]:
    """Slots for `_read`, and which of them are of a chosen block, both `[R, T, N]`."""
    count, shape = slots // block, chosen_RTk.shape[:2]
    if shape[1] == 1:
        slot_RTkL = chosen_RTk[..., None] * block + jnp.arange(block)[None, None, None]
        may_RTkL = jnp.broadcast_to((chosen_RTk < count)[..., None], slot_RTkL.shape)
        return slot_RTkL.reshape(*shape, -1), may_RTkL.reshape(*shape, -1)
    slot_S = jnp.arange(slots)
    slot_RTS = jnp.broadcast_to(slot_S[None, None], (*shape, slots))
    may_RTS = jnp.any(chosen_RTk[..., None] == (slot_S // block)[None, None, None], axis=2)
    # Behind the last whole block are slots of a block that nobody can choose: M means none.
    return slot_RTS, may_RTS & (slot_S < count * block)[None, None]


def _read(query_RTGE: jax.Array, kv: KVCache, slot_RTN: jax.Array, may_RTN: jax.Array) -> jax.Array:
    """Softmax attention to slots, zeros where a query may read none of them.

    One query gathers its slots; several are given all, in order.
    """
    rows, length, _, width = query_RTGE.shape
    # Each key-value head is a row of its own, since each chose for itself.
    own = KVCache(
        kv.key_BKES.reshape(rows, 1, width, -1), kv.value_BKSE.reshape(rows, 1, -1, width)
    )
    if length == 1:
        key_R1NE, value_R1NE = _gather(own, slot_RTN[:, 0])
        key, value = jnp.swapaxes(key_R1NE, 1, 2), jnp.swapaxes(value_R1NE, 1, 2)
    else:
        key, value = own.key_BSKE, own.value_BSKE
    dtype = query_RTGE.dtype
    read_RTGE = attend(query_RTGE, key.astype(dtype), value.astype(dtype), may_RTN)
    return jnp.where(jnp.any(may_RTN, axis=-1)[..., None, None], read_RTGE, 0)


def _gather(kv: KVCache, slot_BN: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Keys and values `[B, K, N, E]` of some slots, read as they lie; zeros for a slot that is not.

    A transposed cache would be copied whole.
    """
    # A negative index would count from the end.
    slot_BN = jnp.where(slot_BN < 0, kv.value_BKSE.shape[2], slot_BN)
    key_BKEN = jax.vmap(lambda x, slot: x.at[:, :, slot].get(mode="fill", fill_value=0))(
        kv.key_BKES, slot_BN
    )
    value_BKNE = jax.vmap(lambda x, slot: x.at[:, slot].get(mode="fill", fill_value=0))(
        kv.value_BKSE, slot_BN
    )
    return jnp.swapaxes(key_BKEN, -1, -2), value_BKNE


def _means(x_BKSE: jax.Array, block: int) -> jax.Array:
    batch, kv_heads, slots, width = x_BKSE.shape
    count = slots // block
    x = x_BKSE[:, :, : count * block].reshape(batch * kv_heads, count, block, width)
    return mean_block(x).reshape(batch, kv_heads, count, width)
