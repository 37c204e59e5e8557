"""The feed-forward layer of two matrices: y = f(x W_up) W_down.

    relu2   f(a) = max(a, 0)^2               (arXiv 2109.08668)
    gelu    f(a) = a Phi(a), Phi exact       (arXiv 1606.08415)
    gelu_tanh   its approximation by a hyperbolic tangent (the same paper), as in GPT-2

Axes: B batch, T time, D model, F hidden.
"""

from collections.abc import Callable

import haiku as hk
import jax
import jax.numpy as jnp

from rtdlm.modules.primitives import Projection


def relu_squared(a: jax.Array) -> jax.Array:
    """max(a, 0)^2."""
    return jnp.square(jax.nn.relu(a))


def gelu(a: jax.Array) -> jax.Array:
    """`a` times the standard normal's share below it, by the error function in float32.

    JAX's own goes by the complement of the error function, which is slower on a CPU.
    """
    a_f32 = a.astype(jnp.float32)
    return (0.5 * a_f32 * (1.0 + jax.lax.erf(a_f32 * 0.5**0.5))).astype(a.dtype)


def gelu_tanh(a: jax.Array) -> jax.Array:
    """0.5 a (1 + tanh(sqrt(2 / pi) (a + 0.044715 a^3))) in float32."""
    return jax.nn.gelu(a.astype(jnp.float32), approximate=True).astype(a.dtype)


class TwoLayer(hk.Module):
    """An up projection, a function of each hidden feature, a down projection."""

    def __init__(
        self,
        *,
        d_ff: int,
        out_scale: float,
        bias: bool = False,
        activation: Callable[[jax.Array], jax.Array],
        name: str = "feedforward",
    ) -> None:
        super().__init__(name=name)
        self.d_ff = d_ff
        self.out_scale = out_scale
        self.bias = bias
        self.activation = activation

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """`[B, T, D]` -> `[B, T, D]`."""
        model = x_BTD.shape[-1]
        up = Projection("BTD,DF->BTF", shape=(model, self.d_ff), bias=self.bias, name="up")
        down = Projection(
            "BTF,FD->BTD",
            shape=(self.d_ff, model),
            scale=self.out_scale,
            bias=self.bias,
            name="down",
        )
        return down(self.activation(up(x_BTD)))
