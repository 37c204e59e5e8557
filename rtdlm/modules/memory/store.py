"""What an episodic memory holds: one layer's past keys and values, and what is known of each.

Nothing moves once it is written: a slot holds one token until another takes its place. Zeros are
the empty store.

Axes: B batch, M slots, n chosen slots, H heads, E head features.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Store(NamedTuple):
    """One layer's slots; a stack of layers carries a leading axis more."""

    key_BMHE: jax.Array
    """Of unit length, in the activations' format."""
    value_BMHE: jax.Array
    label_BM: jax.Array
    """int32; document of the token that the slot holds, 0 while it is empty."""
    token_BM: jax.Array
    """int32; id of the token, for a person who looks."""
    born_BM: jax.Array
    """int32; the clock when the token was offered, from 1."""
    used_BM: jax.Array
    """float32; readings, each counted by its weight and faded since [tokens' whole reading]."""
    surprise_BM: jax.Array
    """float32; of the token when it was offered."""
    clock_B: jax.Array
    """int32; tokens offered so far, stored or not. It ends at 2^31."""

    @classmethod
    def empty(cls, *shape: int, dtype: jnp.dtype | type = jnp.float32) -> "Store":
        """Nothing, in `shape`: (layers,) batch, slots, heads, head features."""
        slots = shape[:-2]
        return cls(
            key_BMHE=jnp.zeros(shape, dtype),
            value_BMHE=jnp.zeros(shape, dtype),
            label_BM=jnp.zeros(slots, jnp.int32),
            token_BM=jnp.zeros(slots, jnp.int32),
            born_BM=jnp.zeros(slots, jnp.int32),
            used_BM=jnp.zeros(slots, jnp.float32),
            surprise_BM=jnp.zeros(slots, jnp.float32),
            clock_B=jnp.zeros(slots[:-1], jnp.int32),
        )

    @property
    def age_BM(self) -> jax.Array:
        """int32; tokens offered since the slot's own; means nothing while the slot is empty."""
        return self.clock_B[:, None] - self.born_BM


def mark_used(store: Store, used_BM: jax.Array) -> Store:
    """The store after a reading; `used_BM` is the weight that the reading gave each slot."""
    return store._replace(used_BM=store.used_BM + used_BM)


class Replay(NamedTuple):
    """Slots that are worth moving into a memory of another kind, the most used first."""

    key_BnHE: jax.Array
    value_BnHE: jax.Array
    weight_Bn: jax.Array
    """float32; how much the slot was used; 0 where there is none, or one that was never read."""


def consolidation_rows(store: Store, num_rows: int) -> Replay:
    """The `num_rows` most used slots of each row, of equal ones the first; at most M."""
    used_BM = jnp.where(store.label_BM > 0, store.used_BM, 0.0)
    weight_Bn, slot_Bn = jax.lax.top_k(used_BM, num_rows)
    row_B1 = jnp.arange(slot_Bn.shape[0])[:, None]
    return Replay(store.key_BMHE[row_B1, slot_Bn], store.value_BMHE[row_B1, slot_Bn], weight_Bn)
