"""Some tokens of each row moved together, as a shorter row, and back to their places.

Axes: B batch, T time, C tokens of the shorter row.
"""

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from rtdlm.modules.primitives import move


class Places(Protocol):
    """Where tokens go and come from."""

    @property
    def token_BC(self) -> jax.Array:
        """Places of the chosen tokens, ascending; T where there is none."""

    @property
    def place_BT(self) -> jax.Array:
        """Place of each token among the chosen; C where it is none."""


class Together(NamedTuple):
    """The plain form of `Places`."""

    token_BC: jax.Array
    place_BT: jax.Array
    taken_BT: jax.Array
    """bool."""


def moved_together(taken_BT: jax.Array, count: int) -> Together:
    """Places in shorter rows of `count` tokens, which have room for all that are taken."""
    length = taken_BT.shape[1]
    place_BT = jnp.cumsum(taken_BT.astype(jnp.int32), axis=1) - 1
    place_BT = jnp.where(taken_BT, place_BT, count)
    rows, time = jnp.arange(taken_BT.shape[0])[:, None], jnp.arange(length)[None]
    token_BC = jnp.full((taken_BT.shape[0], count), length, jnp.int32)
    time_BT = jnp.broadcast_to(time, taken_BT.shape)
    token_BC = token_BC.at[rows, place_BT].set(time_BT, mode="drop")
    return Together(token_BC, place_BT, taken_BT)


def part_of(whole: Together, first: jax.Array, count: int) -> Together:
    """`count` of the chosen tokens, from the one at place `first`."""
    token_BC = jax.lax.dynamic_slice_in_dim(whole.token_BC, first, count, axis=1)
    place_BT = whole.place_BT - first
    taken_BT = (place_BT >= 0) & (place_BT < count)
    return Together(token_BC, jnp.where(taken_BT, place_BT, count), taken_BT)


def gather(x: jax.Array, chosen: Places) -> jax.Array:
    """`[B, C, ...]`: the rows of `x`, a `[B, T, ...]`, of the chosen tokens; zeros where none."""
    batch, length = x.shape[:2]
    moved = move(x.reshape(batch, length, -1), chosen.token_BC, chosen.place_BT)
    return moved.reshape(batch, -1, *x.shape[2:])


def gather_ints(x_BT: jax.Array, chosen: Places) -> jax.Array:
    """`gather` of int32 `[B, T]`, exact below 2**24."""
    return gather(x_BT[..., None].astype(jnp.float32), chosen)[..., 0].astype(jnp.int32)


def scatter(y: jax.Array, chosen: Places) -> jax.Array:
    """`[B, T, ...]`: undoes `gather`; zeros for tokens that were not chosen."""
    batch, count = y.shape[:2]
    moved = move(y.reshape(batch, count, -1), chosen.place_BT, chosen.token_BC)
    return moved.reshape(batch, -1, *y.shape[2:])
