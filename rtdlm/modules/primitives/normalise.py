"""What RMSNorm and LayerNorm share: the last axis at a spread of 1, and the gradient of that.

    h = (x - m) / sqrt(mean((x - m)^2) + eps)         m = mean(x), or 0 without centring
    y = scale * h  (+ bias)
    dx = (g - mean(g) - h mean(g h)) / sqrt(...)      g = scale * dy; mean(g) with centring alone

Computed in float32. The gradient is made from the input and one or two numbers a token: automatic
differentiation would keep three float32 arrays of the input's size.
"""

from functools import partial

import jax
import jax.numpy as jnp

Kept = tuple[jax.Array, jax.Array | None, jax.Array, jax.Array, jax.Array | None]


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def normalise(
    x: jax.Array, scale: jax.Array, bias: jax.Array | None, epsilon: float, centre: bool
) -> jax.Array:
    """`x` `[..., D]`, normalised along its last axis, in its format; see above.

    Args:
        x: of any format.
        scale: `[D]` float32.
        bias: `[D]` float32, or None.
        epsilon: added to the mean square.
        centre: subtract the mean first.
    """
    return _forward(x, scale, bias, epsilon, centre)[0]


def _forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array | None, epsilon: float, centre: bool
) -> tuple[jax.Array, Kept]:
    centred, mean = x.astype(jnp.float32), None
    if centre:
        mean = jnp.mean(centred, axis=-1, keepdims=True)
        centred = centred - mean
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + epsilon)
    y = centred * inverse * _along(scale, x)
    if bias is not None:
        y = y + _along(bias, x)
    return y.astype(x.dtype), (x, mean, inverse, scale, bias)


def _backward(
    epsilon: float, centre: bool, kept: Kept, dy: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    del epsilon
    x, mean, inverse, scale, bias = kept
    # Barriers keep XLA from sharing arrays with the forward pass, and from holding h for dscale,
    # which it may sum much later.
    hat = _hat(*jax.lax.optimization_barrier((x, mean, inverse)))
    later, later_dy = jax.lax.optimization_barrier(((x, mean, inverse), dy))
    g = dy.astype(jnp.float32) * _along(scale, x)
    dx = g - hat * jnp.mean(g * hat, axis=-1, keepdims=True)
    if centre:
        dx = dx - jnp.mean(g, axis=-1, keepdims=True)
    tokens, later_dy = tuple(range(x.ndim - 1)), later_dy.astype(jnp.float32)
    dscale = jnp.sum(later_dy * _hat(*later), axis=tokens)
    dbias = None if bias is None else jnp.sum(later_dy, axis=tokens)
    return (dx * inverse).astype(x.dtype), dscale, dbias


def _hat(x: jax.Array, mean: jax.Array | None, inverse: jax.Array) -> jax.Array:
    centred = x.astype(jnp.float32)
    return (centred if mean is None else centred - mean) * inverse


normalise.defvjp(_forward, _backward)


def _along(vector: jax.Array, x: jax.Array) -> jax.Array:
    return vector.reshape((1,) * (x.ndim - 1) + vector.shape)
