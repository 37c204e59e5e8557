"""Products of tiles of rows, each with one of several weights, forward and backward.

    y_u = x_u w[e_u]       dx_u = dy_u w[e_u]^T       dw_e = sum over u with e_u = e of x_u^T dy_u

One tile after another: a batch of them would first copy a weight for every tile, and
`jax.lax.ragged_dot` computes every row with every weight on a CPU.

Axes: U tiles, C rows of a tile, E weights, K summed, M produced.
"""

import jax
import jax.numpy as jnp

from rtdlm.modules.primitives.product import dot, weight_gradient


@jax.custom_vjp
def grouped_product(x_UCK: jax.Array, w_EKM: jax.Array, weight_U: jax.Array) -> jax.Array:
    """`[U, C, M]` in the format of `x_UCK`; tile u meets weight number `weight_U[u]`."""
    return _each_tile("ck,km->cm", x_UCK, w_EKM, weight_U)


def _each_tile(equation: str, x_UCN: jax.Array, w_EKM: jax.Array, weight_U: jax.Array) -> jax.Array:
    dtype = x_UCN.dtype
    bits_EKM = _bits(w_EKM.astype(dtype))

    def multiply(_: None, tile: tuple[jax.Array, jax.Array]) -> tuple[None, jax.Array]:
        bits_CN, number = tile
        w_KM = _floats(jax.lax.dynamic_index_in_dim(bits_EKM, number, keepdims=False), dtype)
        return None, dot(equation, _floats(bits_CN, dtype), w_KM)

    # Narrowed after the loop: inside one, XLA for CPUs would convert the whole result every time.
    return jax.lax.scan(multiply, None, (_bits(x_UCN), weight_U))[1].astype(dtype)


def _bits(x: jax.Array) -> jax.Array:
    """bfloat16 as integers: XLA for CPUs slices floats in float32, with conversions around it."""
    return jax.lax.bitcast_convert_type(x, jnp.uint16) if x.dtype == jnp.bfloat16 else x


def _floats(bits: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """What `_bits` was made of."""
    return jax.lax.bitcast_convert_type(bits, dtype) if bits.dtype == jnp.uint16 else bits


Kept = tuple[jax.Array, jax.Array, jax.Array]


def _forward(x_UCK: jax.Array, w_EKM: jax.Array, weight_U: jax.Array) -> tuple[jax.Array, Kept]:
    return grouped_product(x_UCK, w_EKM, weight_U), (x_UCK, w_EKM, weight_U)


def _backward(kept: Kept, dy_UCM: jax.Array) -> tuple[jax.Array, jax.Array, None]:
    x_UCK, w_EKM, weight_U = kept
    dx_UCK = _each_tile("cm,km->ck", dy_UCM, w_EKM, weight_U)
    if x_UCK.shape[-1] > dy_UCM.shape[-1]:
        # As `weight_gradient` would turn every tile's, but once.
        dw_EKM = jnp.swapaxes(_sum_tiles(dy_UCM, x_UCK, weight_U, len(w_EKM)), -1, -2)
    else:
        dw_EKM = _sum_tiles(x_UCK, dy_UCM, weight_U, len(w_EKM))
    return dx_UCK, dw_EKM.astype(w_EKM.dtype), None


def _sum_tiles(x_UCN: jax.Array, y_UCP: jax.Array, weight_U: jax.Array, weights: int) -> jax.Array:
    """`[E, N, P]` in float32: sums of x^T y over the tiles of every weight."""

    def add(
        sum_ENP: jax.Array, tile: tuple[jax.Array, jax.Array, jax.Array]
    ) -> tuple[jax.Array, None]:
        x_CN, y_CP = (_floats(bits, x_UCN.dtype) for bits in tile[:2])
        return sum_ENP.at[tile[2]].add(weight_gradient(x_CN, y_CP)), None

    zeros = jnp.zeros((weights, x_UCN.shape[-1], y_UCP.shape[-1]), jnp.float32)
    return jax.lax.scan(add, zeros, (_bits(x_UCN), _bits(y_UCP), weight_U))[0]


grouped_product.defvjp(_forward, _backward)
