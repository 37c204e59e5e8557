"""Matrix products that reach the hardware's fast units, forward and backward.

    y = x w        dx = dy w^T        dw = x^T dy

Operands have the activations' format and sums are float32. XLA's CPU library has kernels for the
bfloat16 units (AMX) that serve a product only if it gives float32 and its left operand's rows are
what is summed. `dw` is neither as automatic differentiation writes it, and then runs on the float32
units; hence a gradient of its own.

Where devices hold parts of dw, it is scattered as it is summed; where they hold parts of `w`, each
gathers it in the activations' format, for y and again for dx (see `rtdlm.parallel.fsdp`).

Axes: ... batch, N rows, K summed, M produced.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import PartitionSpec

from rtdlm.parallel import (
    BATCH_AXES,
    gathered,
    on_one_device,
    row_groups,
    scattered,
    split_along,
    weight_lies,
)

PRODUCT = "product"
"""Name of every product for `jax.checkpoint`, which does not see into it."""

FORTH, BACK = "...nk,...km->...nm", "...nm,...km->...nk"
ROWS = PartitionSpec(BATCH_AXES)
"""How rows of flat matrices lie."""

MIN_TURNED_ROWS = 16
"""Fewest rows for which a weight's gradient is made turned. Sums of two or three rows are left to
XLA's own code, which then aborts the process if `jax.vmap` has made a batch of the products."""


def product(x: jax.Array, w: jax.Array, *, split: int | None = None) -> jax.Array:
    """`[..., N, K]` times `[..., K, M]` in the format of `x`; any format of `w`.

    Args:
        x: rows.
        w: weight.
        split: the dimension of a matrix `w` along which dw is scattered; see `split_of`.
    """
    if split is not None and (x.ndim != 2 or row_groups(len(x)) == 1):
        split = None
    return checkpoint_name(_product(split, x, w), PRODUCT)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product(split: int | None, x: jax.Array, w: jax.Array) -> jax.Array:
    if split is None:
        return _times(FORTH, x, w.astype(x.dtype))

    def local(x: jax.Array, w: jax.Array) -> jax.Array:
        return _times(FORTH, x, gathered(w.astype(x.dtype), split))

    parts = (ROWS, weight_lies(split))
    return jax.shard_map(local, in_specs=parts, out_specs=ROWS, check_vma=False)(x, w)


def _forward(
    split: int | None, x: jax.Array, w: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    # Not the cast weight: inside a loop over layers a copy of every layer's would be kept.
    return _product(split, x, w), (x, w)


def _backward(
    split: int | None, kept: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, w = kept
    if split is None:
        return _times(BACK, dy, w.astype(x.dtype)), weight_gradient(x, dy).astype(w.dtype)

    def local(x: jax.Array, w: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
        dx = _times(BACK, dy, gathered(w.astype(x.dtype), split, after=dy))
        return dx, scattered(weight_gradient(x, dy), split).astype(w.dtype)

    lie, made = (ROWS, weight_lies(split), ROWS), (ROWS, split_along(split))
    apart = jax.shard_map(local, in_specs=lie, out_specs=made, check_vma=False)
    dx, dw = apart(x, w, dy)
    return dx, dw


def _times(equation: str, x: jax.Array, w: jax.Array) -> jax.Array:
    return dot(equation, x, w).astype(x.dtype)


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
