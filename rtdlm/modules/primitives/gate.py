"""One array opened by a function of another, f(gate) * up, with a gradient that keeps little.

silu   f(a) = a sigmoid(a)
gelu   f(a) = gelu(a) by a hyperbolic tangent (arXiv 1606.08415)
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rtdlm.modules.primitives.narrow import narrow


class Gate(NamedTuple):
    """A function of a float32 array, and it with its derivative."""

    value: Callable[[jax.Array], jax.Array]
    value_and_slope: Callable[[jax.Array], tuple[jax.Array, jax.Array]]


def _silu_and_slope(a: jax.Array) -> tuple[jax.Array, jax.Array]:
    open_share = jax.nn.sigmoid(a)
    return a * open_share, open_share * (1.0 + a * (1.0 - open_share))


def _bend(a: jax.Array) -> jax.Array:
    return 2.0 * (2.0 / jnp.pi) ** 0.5 * (a + 0.044715 * a**3)


def _gelu(a: jax.Array) -> jax.Array:
    """With 1 + tanh(u) = 2 sigmoid(2 u), which keeps its digits where it is small."""
    return a * jax.nn.sigmoid(_bend(a))


def _gelu_and_slope(a: jax.Array) -> tuple[jax.Array, jax.Array]:
    share = jax.nn.sigmoid(_bend(a))
    steep = 2.0 * (2.0 / jnp.pi) ** 0.5 * (1.0 + 3 * 0.044715 * jnp.square(a))
    return a * share, share * (1.0 + a * (1.0 - share) * steep)


SILU = Gate(jax.nn.silu, _silu_and_slope)
GELU = Gate(_gelu, _gelu_and_slope)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def gated(function: Gate, gate: jax.Array, up: jax.Array) -> jax.Array:
    """function(gate) * up, computed in float32.

    The gradient is made from the two inputs: automatic differentiation would keep two more arrays
    of the hidden width, and moving those costs more than the arithmetic.
    """
    opened = function.value(gate.astype(jnp.float32))
    return narrow(opened * up.astype(jnp.float32), gate.dtype)


def _forward(
    function: Gate, gate: jax.Array, up: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return gated(function, gate, up), (gate, up)


def _backward(
    function: Gate, kept: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    # The barrier keeps XLA from sharing the function with the forward pass, and so from keeping it.
    kept = jax.lax.optimization_barrier(kept)
    gate, up, dy = (array.astype(jnp.float32) for array in (*kept, dy))
    opened, slope = function.value_and_slope(gate)
    dtype = kept[0].dtype
    return narrow(dy * up * slope, dtype), narrow(dy * opened, dtype)


gated.defvjp(_forward, _backward)
