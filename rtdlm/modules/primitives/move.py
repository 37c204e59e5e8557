"""Rows of an array moved to other places, and their gradient moved back.

Axes: R rows, X and Y places before and after a move, E features.
"""

import jax
import jax.numpy as jnp


@jax.custom_vjp
def move(x_RXE: jax.Array, origin_RY: jax.Array, target_RX: jax.Array) -> jax.Array:
    """Row y of the result is row `origin_RY[y]` of `x_RXE`, zeros where that is out of range.

    `target_RX` is the inverse, which turns the gradient into a gather too: XLA for CPUs scatters
    one row after another. A row may go to several places: then `target_RX` has a multiple of X
    entries, those of a row side by side.
    """
    return _gather(x_RXE, origin_RY)


def _gather(x_RXE: jax.Array, index_RY: jax.Array) -> jax.Array:
    return jax.vmap(lambda x, index: x.at[index].get(mode="fill", fill_value=0))(x_RXE, index_RY)


def _move_forward(
    x_RXE: jax.Array, origin_RY: jax.Array, target_RX: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, int]]:
    return _gather(x_RXE, origin_RY), (target_RX, x_RXE.shape[1])


def _move_backward(
    kept: tuple[jax.Array, int], change_RYE: jax.Array
) -> tuple[jax.Array, None, None]:
    target, count = kept
    change = _gather(change_RYE, target)
    change = change.reshape(change.shape[0], count, -1, *change.shape[2:])
    return jnp.sum(change, axis=2), None, None


move.defvjp(_move_forward, _move_backward)
