"""Matrix products that reach the hardware's fast units, forward and backward.

    y = x w        dx = dy w^T        dw = x^T dy

Operands have the activations' format and sums are float32. XLA's CPU library has kernels for the
bfloat16 units (AMX) that serve a product only if it gives float32 and its left operand's rows are
what is summed. `dw` is neither as automatic differentiation writes it, and then runs on the float32
units; hence a gradient of its own.

Axes: ... batch, N rows, K summed, M produced.
"""

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.layout import Layout, with_layout_constraint

from rtdlm.parallel import on_one_device

PRODUCT = "product"
"""Name of every product for `jax.checkpoint`, which does not see into it."""

MIN_TURNED_ROWS = 16
"""Fewest rows for which a weight's gradient is made turned. Sums of two or three rows are left to
XLA's own code, which then aborts the process if `jax.vmap` has made a batch of the products."""


def product(x: jax.Array, w: jax.Array) -> jax.Array:
    """`[..., N, K]` times `[..., K, M]` in the format of `x`; any format of `w`."""
    return checkpoint_name(_product(x, w), PRODUCT)


@jax.custom_vjp
def _product(x: jax.Array, w: jax.Array) -> jax.Array:
    return dot("...nk,...km->...nm", x, w.astype(x.dtype)).astype(x.dtype)


def _forward(x: jax.Array, w: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    # Not the cast weight: inside a loop over layers a copy of every layer's would be kept.
    return _product(x, w), (x, w)


def _backward(kept: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, w = kept
    dx = dot("...nm,...km->...nk", dy, w.astype(x.dtype)).astype(x.dtype)
    return dx, weight_gradient(x, dy).astype(w.dtype)


_product.defvjp(_forward, _backward)


def weight_gradient(x: jax.Array, dy: jax.Array) -> jax.Array:
    """x^T dy in float32: `[..., N, K]` and `[..., N, M]` -> `[..., K, M]`."""
    if x.shape[-1] > dy.shape[-1] and x.shape[-2] >= MIN_TURNED_ROWS:
        # Products with short rows are slow: the long axis goes last, and is turned back after.
        return jnp.swapaxes(row_major(weight_gradient(dy, x)), -1, -2)
    if x.dtype == jnp.float32:
        return dot("...nk,...nm->...km", x, dy)
    return dot("...kn,...nm->...km", row_major(jnp.swapaxes(x, -1, -2)), dy)


def row_major(array: jax.Array) -> jax.Array:
    """`array`, on a CPU laid out in memory as its axes say, instead of as XLA finds best.

    On several devices it is left alone: XLA's partitioner would gather it whole first.
    """
    if not on_one_device():
        return array
    layout = Layout(major_to_minor=tuple(range(array.ndim)))
    return jax.lax.platform_dependent(
        array, cpu=lambda array: with_layout_constraint(array, layout), default=lambda array: array
    )


def dot(equation: str, x: jax.Array, y: jax.Array) -> jax.Array:
    """einsum(equation, x, y) in float32, which is what the fast kernels give; see above."""
    return jnp.einsum(equation, x, y, preferred_element_type=jnp.float32)
