"""RMSNorm (arXiv 1910.07467): y = scale * x / sqrt(mean(x^2) + eps), computed in float32."""

import haiku as hk
import jax
import jax.numpy as jnp


class RMSNorm(hk.Module):
    """Normalises the last axis and keeps the input's dtype; the scale stays float32."""

    def __init__(self, *, epsilon: float = 1e-6, name: str = "norm") -> None:
        super().__init__(name=name)
        self.epsilon = epsilon

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[..., D]` -> `[..., D]`."""
        scale = hk.get_parameter(
            "scale", (x.shape[-1],), jnp.float32, hk.initializers.Constant(1.0)
        )
        x_f32 = x.astype(jnp.float32)
        inverse = jax.lax.rsqrt(jnp.mean(jnp.square(x_f32), axis=-1, keepdims=True) + self.epsilon)
        y = x_f32 * inverse * scale.reshape((1,) * (x.ndim - 1) + scale.shape)
        return y.astype(x.dtype)
