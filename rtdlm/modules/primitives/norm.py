"""RMSNorm (arXiv 1910.07467): y = scale * x / sqrt(mean(x^2) + eps), computed in float32; length 1.

A centred one keeps scale - 1 as its parameter, which weight decay then draws to zero (Gemma, arXiv
2403.08295).
"""

import haiku as hk
import jax
import jax.numpy as jnp

from rtdlm.modules.primitives.normalise import normalise


class RMSNorm(hk.Module):
    """Normalises the last axis and keeps the input's dtype; the scale stays float32."""

    def __init__(self, *, epsilon: float = 1e-6, centred: bool = False, name: str = "norm") -> None:
        super().__init__(name=name)
        self.epsilon = epsilon
        self.centred = centred

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[..., D]` -> `[..., D]`."""
        start = hk.initializers.Constant(0.0 if self.centred else 1.0)
        scale = hk.get_parameter("scale", (x.shape[-1],), jnp.float32, start)
        if self.centred:
            scale = 1.0 + scale
        return normalise(x, scale, None, self.epsilon, False)


def unit(x: jax.Array) -> jax.Array:
    """`x` in float32 with its last axis at length 1; zeros stay zeros."""
    x_f32 = x.astype(jnp.float32)
    return x_f32 * jax.lax.rsqrt(jnp.sum(jnp.square(x_f32), axis=-1, keepdims=True) + 1e-6)
