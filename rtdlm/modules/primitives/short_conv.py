"""Short causal convolution over the tokens of a document, one kernel a feature.

    y_t = x_t + sum_{j<W} k_j * x_{t-j}        (x is zero before the document's start)

It lets a layer compare neighbouring tokens without spending attention on them (arXiv 2212.14052,
section 3; the "Canon" layers of Allen-Zhu, 2025). Kernels start at zero: the layer begins as the
identity.

Axes: B batch, T time, W width.
"""

import haiku as hk
import jax
import jax.numpy as jnp

from rtdlm.modules.primitives.look_back import Past, look_back


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
        # In float32: it is no more to move, and a kernel's gradient is a sum over all tokens.
        x_f32 = x.astype(jnp.float32)
        seen, state = look_back(x_f32, past, reach=self.width - 1, state=state)
        y = x_f32
        for back, before in enumerate(seen):
            y = y + kernel[back][None, None] * before
        return y.astype(x.dtype), state
