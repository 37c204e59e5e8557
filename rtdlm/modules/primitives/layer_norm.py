"""LayerNorm without a bias (arXiv 1607.06450), computed in float32.

y = scale * (x - mean(x)) / sqrt(var(x) + eps)
"""

import haiku as hk
import jax
import jax.numpy as jnp


class LayerNorm(hk.Module):
    """Normalises the last axis and keeps the input's dtype; the scale stays float32."""

    def __init__(self, *, epsilon: float = 1e-5, name: str = "norm") -> None:
        super().__init__(name=name)
        self.epsilon = epsilon

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[..., D]` -> `[..., D]`."""
        scale = hk.get_parameter(
            "scale", (x.shape[-1],), jnp.float32, hk.initializers.Constant(1.0)
        )
        x_f32 = x.astype(jnp.float32)
        centred = x_f32 - jnp.mean(x_f32, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        y = centred * jax.lax.rsqrt(variance + self.epsilon)
        return (y * scale.reshape((1,) * (x.ndim - 1) + scale.shape)).astype(x.dtype)
