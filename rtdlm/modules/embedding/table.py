"""A learned table and its rows.

Axes: ... any, R rows, W width.
"""

import haiku as hk
import jax
import jax.numpy as jnp


def lookup(
    ids: jax.Array, *, shape: tuple[int, int], std: float, dtype: jnp.dtype, name: str
) -> jax.Array:
    """`[..., W]`: the rows `ids` of the float32 parameter `name` of `shape` (R, W).

    An id beyond the table, which only padding may have, takes the last row.
    """
    init = hk.initializers.RandomNormal(std) if std else hk.initializers.Constant(0.0)
    table_RW = hk.get_parameter(name, shape, jnp.float32, init)
    return table_RW.at[ids].get(mode="clip").astype(dtype)
