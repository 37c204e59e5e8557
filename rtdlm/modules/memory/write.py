"""Writing into an episodic store: which of the offered tokens go in, and where.

With every token written and the oldest giving way, the store is a ring of the last M tokens. With
`rows`, only the most surprising of a segment are written, so that the store reaches further back.
A segment's tokens take the slots that were worth least before it; none takes that of another.

Axes: B batch, S offered tokens, M slots, R written tokens, H heads, E head features.
"""

import jax
import jax.numpy as jnp

from rtdlm.modules.memory.forget import FORGET, HALF_LIFE, faded
from rtdlm.modules.memory.novelty import novelty
from rtdlm.modules.memory.store import Store


def write_store(
    store: Store,
    key_BSHE: jax.Array,
    value_BSHE: jax.Array,
    label_BS: jax.Array,
    token_BS: jax.Array,
    *,
    surprise_BS: jax.Array | None = None,
    rows: int | None = None,
    forget: str = "age",
    half_life: float | None = None,
) -> Store:
    """The store after a segment was offered.

    Args:
        store: before. Its own format stays.
        key_BSHE: keys of unit length.
        value_BSHE: values.
        label_BS: int32 document of each token, from 1; 0 is padding, which is no token.
        token_BS: int32 ids.
        surprise_BS: float32, kept with the slots; None takes `novelty`.
        rows: most tokens of a row that are written, those of most surprise and of equal ones the
            first; None is all. Never more than M: of all, the last.
        forget: what slots are worth, a name in `FORGET`; empty ones go first.
        half_life: offered tokens after which half of a slot's use is left; None is 8 M.
    """
    slots, offered = store.label_BM.shape[1], label_BS.shape[1]
    half_life = HALF_LIFE * slots if half_life is None else half_life
    if surprise_BS is None:
        surprise_BS = novelty(key_BSHE, label_BS, store)
    real_BS = label_BS > 0
    number_BS = jnp.cumsum(real_BS, axis=1, dtype=jnp.int32)
    clock_B = store.clock_B + number_BS[:, -1]
    token_BR = _chosen(real_BS, surprise_BS, rows, at_most=min(slots, offered))
    slot_BR = _giving_way(store, forget, half_life)[:, : token_BR.shape[1]]
    # What is no token goes beyond the last slot, where it is dropped.
    row_B1 = jnp.arange(label_BS.shape[0])[:, None]
    slot_BR = jnp.where(jnp.take_along_axis(real_BS, token_BR, axis=1), slot_BR, slots)

    def put(old_BM: jax.Array, new_BS: jax.Array) -> jax.Array:
        new_BR = new_BS[row_B1, token_BR].astype(old_BM.dtype)
        return old_BM.at[row_B1, slot_BR].set(new_BR, mode="drop")

    left_B1 = faded(number_BS[:, -1:], half_life)
    return Store(
        key_BMHE=put(store.key_BMHE, key_BSHE),
        value_BMHE=put(store.value_BMHE, value_BSHE),
        label_BM=put(store.label_BM, label_BS),
        token_BM=put(store.token_BM, token_BS),
        born_BM=put(store.born_BM, store.clock_B[:, None] + number_BS),
        used_BM=put(store.used_BM * left_B1, jnp.zeros_like(surprise_BS)),
        surprise_BM=put(store.surprise_BM, surprise_BS),
        clock_B=clock_B,
    )


def _chosen(
    real_BS: jax.Array, surprise_BS: jax.Array, rows: int | None, *, at_most: int
) -> jax.Array:
    """`[B, R]`: places of the tokens to write, in their order, then places of padding."""
    place_S = jnp.arange(real_BS.shape[1], dtype=jnp.int32)
    merit_BS = jnp.broadcast_to(place_S, real_BS.shape) if rows is None else surprise_BS
    merit_BS = jnp.where(real_BS, merit_BS.astype(jnp.float32), -jnp.inf)
    count = at_most if rows is None else min(rows, at_most)
    place_BR = jax.lax.top_k(merit_BS, count)[1]
    is_token_BR = jnp.take_along_axis(real_BS, place_BR, axis=1)
    order_BR = jnp.argsort(jnp.where(is_token_BR, place_BR, real_BS.shape[1]), axis=1)
    return jnp.take_along_axis(place_BR, order_BR, axis=1)


def _giving_way(store: Store, forget: str, half_life: float) -> jax.Array:
    """`[B, M]`: the slots in the order in which they give way."""
    filled_BM = (store.label_BM > 0).astype(jnp.int32)
    worth_BM = jax.lax.stop_gradient(FORGET[forget](store, half_life))
    worth_BM = jnp.where(filled_BM > 0, worth_BM, 0.0)
    slot_BM = jax.lax.broadcasted_iota(jnp.int32, filled_BM.shape, 1)
    keys = (filled_BM, worth_BM, jnp.where(filled_BM > 0, store.born_BM, 0), slot_BM)
    return jax.lax.sort(keys, dimension=1, num_keys=3, is_stable=True)[3]
