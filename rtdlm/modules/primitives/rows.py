"""Choosing among the rows of states.

Axes: B batch.
"""

from typing import TypeVar

import jax
import jax.numpy as jnp

Tree = TypeVar("Tree")


def where_rows(rows_B: jax.Array, new: Tree, old: Tree, *, axis: int = 0) -> Tree:
    """`new` in the rows that `rows_B` marks, `old` in the others, leaf by leaf.

    Args:
        rows_B: bool.
        new: leaves have their rows along `axis`, as those of `old` have.
        old: of the same structure.
        axis: 0, or 1 behind an axis of layers.
    """

    def chosen(new: jax.Array, old: jax.Array) -> jax.Array:
        shape = [1] * new.ndim
        shape[axis] = -1
        return jnp.where(rows_B.reshape(shape), new, old)

    found: Tree = jax.tree.map(chosen, new, old)
    return found
