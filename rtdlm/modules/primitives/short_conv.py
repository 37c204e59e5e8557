"""Short causal convolution over the tokens of a document, one kernel a feature.

    y_t = x_t + sum_{j<W} k_j * x_{t-j}        (x is zero before the document's start)

It lets a layer compare neighbouring tokens without spending attention on them (arXiv 2212.14052,
section 3; the "Canon" layers of Allen-Zhu, 2025). Kernels start at zero: the layer begins as the
identity.

Axes: B batch, T time, J tokens back, W width.
"""

import haiku as hk
import jax
import jax.numpy as jnp

from rtdlm.modules.primitives.look_back import Past, earlier, newest

Kept = tuple[jax.Array, jax.Array | None, jax.Array, jax.Array | None]


class ShortConv(hk.Module):
    """The convolution of any `[B, T, ...]`, features along all axes but the first two."""

    def __init__(self, *, width: int, name: str) -> None:
        """`width` counts the token itself and is at least 2."""
        super().__init__(name=name)
        self.width = width

    def __call__(
        self, x: jax.Array, *, past: Past, state: jax.Array | None
    ) -> tuple[jax.Array, jax.Array | None]:
        """The result, like `x`, and the state `[B, W - 1, ...]`; see `look_back`."""
        shape = (self.width, *x.shape[2:])
        kernel = hk.get_parameter("kernel", shape, jnp.float32, hk.initializers.Constant(0.0))
        if state is None:
            return _convolved(x, None, kernel, past.same_BTJ), None
        assert past.lengths_B is not None
        after = newest(x, past.lengths_B, state=state)
        return _convolved(x, state.astype(x.dtype), kernel, past.same_BTJ), after


@jax.custom_vjp
def _convolved(
    x: jax.Array, before: jax.Array | None, kernel: jax.Array, same_BTJ: jax.Array | None
) -> jax.Array:
    """`x` with its convolution, behind `before` `[B, W - 1, ...]`, None for zeros.

    The gradient is a convolution too, forward in time. Left to JAX it is a sum of W shifted
    arrays, which XLA writes to memory one by one, in float32, and so it keeps the shifted inputs.
    """
    return _forward(x, before, kernel, same_BTJ)[0]


def _forward(
    x: jax.Array, before: jax.Array | None, kernel: jax.Array, same_BTJ: jax.Array | None
) -> tuple[jax.Array, Kept]:
    # In float32: it is no more to move, and sums of a few products cost nothing beside that.
    y = x.astype(jnp.float32)
    seen = earlier(x, same_BTJ, reach=len(kernel) - 1, before=before)
    for weight, back in zip(kernel, seen, strict=True):
        y = y + weight[None, None] * back.astype(jnp.float32)
    return y.astype(x.dtype), (x, before, kernel, same_BTJ)


def _backward(kept: Kept, dy: jax.Array) -> tuple[jax.Array, jax.Array | None, jax.Array, None]:
    x, before, kernel, same_BTJ = kept
    # The barrier keeps XLA from sharing shifted inputs with the forward pass, and so keeping them.
    x, before = jax.lax.optimization_barrier((x, before))
    reach = len(kernel) - 1
    dy_f32 = dy.astype(jnp.float32)
    seen = earlier(x, same_BTJ, reach=reach, before=before)
    # In float32 as well: a kernel's gradient is a sum over all tokens.
    dkernel = jnp.stack([jnp.sum(dy_f32 * back.astype(jnp.float32), axis=(0, 1)) for back in seen])
    first = 0 if before is None else reach
    later = _later(dy, same_BTJ, first=first, reach=reach)
    drow = (1.0 + kernel[0])[None, None] * later[0].astype(jnp.float32)
    for weight, ahead in zip(kernel[1:], later[1:], strict=True):
        drow = drow + weight[None, None] * ahead.astype(jnp.float32)
    drow = drow.astype(x.dtype)
    return drow[:, first:], None if before is None else drow[:, :first], dkernel, None


_convolved.defvjp(_forward, _backward)


def _later(dy: jax.Array, same_BTJ: jax.Array | None, *, first: int, reach: int) -> list[jax.Array]:
    """`dy` 0, 1, ..., `reach` tokens ahead of each of `first` places before the row and of the row.

    Zero where that token is of another document or beyond the row.
    """
    count = first + dy.shape[1]
    rest = [(0, 0)] * (dy.ndim - 2)
    row = jnp.pad(dy, ((0, 0), (first, reach), *rest))
    found = [row[:, ahead : ahead + count] for ahead in range(reach + 1)]
    if same_BTJ is not None:
        same = jnp.pad(same_BTJ, ((0, 0), (first, reach), (0, 0)))
        for ahead in range(1, reach + 1):
            mask = same[:, ahead : ahead + count, ahead - 1]
            mask = mask.reshape(mask.shape + (1,) * (dy.ndim - 2))
            found[ahead] = jnp.where(mask, found[ahead], 0)
    return found
