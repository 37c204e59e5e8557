"""LayerNorm (arXiv 1607.06450), computed in float32.

y = scale * (x - mean(x)) / sqrt(var(x) + eps)  (+ bias)
"""

import haiku as hk
import jax
import jax.numpy as jnp

from rtdlm.modules.primitives.normalise import normalise


class LayerNorm(hk.Module):
    """Normalises the last axis and keeps the input's dtype; the scale stays float32."""

    def __init__(self, *, epsilon: float = 1e-5, bias: bool = False, name: str = "norm") -> None:
        super().__init__(name=name)
        self.epsilon = epsilon
        self.bias = bias

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[..., D]` -> `[..., D]`."""
        scale = hk.get_parameter(
            "scale", (x.shape[-1],), jnp.float32, hk.initializers.Constant(1.0)
        )
        bias = None
        if self.bias:
            bias = hk.get_parameter("bias", scale.shape, jnp.float32, hk.initializers.Constant(0.0))
        return normalise(x, scale, bias, self.epsilon, True)
