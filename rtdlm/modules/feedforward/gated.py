"""Gated feed-forward layers (arXiv 2002.05202): y = (f(x W_gate) * x W_up) W_down.

    swiglu   f(a) = a sigmoid(a)
    geglu    f(a) = gelu(a) by a hyperbolic tangent (arXiv 1606.08415), as in Gemma

Axes: B batch, T time, D model, F hidden.
"""

import haiku as hk
import jax

from rtdlm.modules.primitives import SILU, Gate, Projection, gated


class Gated(hk.Module):
    """The gated feed-forward layer, token by token."""

    def __init__(
        self,
        *,
        d_ff: int,
        out_scale: float,
        bias: bool = False,
        gate: Gate = SILU,
        name: str = "feedforward",
    ) -> None:
        super().__init__(name=name)
        self.d_ff = d_ff
        self.out_scale = out_scale
        self.bias = bias
        self.gate = gate

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """`[B, T, D]` -> `[B, T, D]`."""
        inner = (x_BTD.shape[-1], self.d_ff)
        gate = Projection("BTD,DF->BTF", shape=inner, bias=self.bias, name="gate")
        up = Projection("BTD,DF->BTF", shape=inner, bias=self.bias, name="up")
        down = Projection(
            "BTF,FD->BTD", shape=inner[::-1], scale=self.out_scale, bias=self.bias, name="down"
        )
        return down(gated(self.gate, gate(x_BTD), up(x_BTD)))
