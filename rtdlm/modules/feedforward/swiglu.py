"""SwiGLU feed-forward (arXiv 2002.05202): y = (silu(x W_gate) * x W_up) W_down.

Axes: B batch, T time, D model, F hidden.
"""

import haiku as hk
import jax

from rtdlm.modules.primitives import Projection


class SwiGLU(hk.Module):
    """The gated feed-forward layer, token by token."""

    def __init__(self, *, d_ff: int, out_scale: float, name: str = "feedforward") -> None:
        super().__init__(name=name)
        self.d_ff = d_ff
        self.out_scale = out_scale

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """`[B, T, D]` -> `[B, T, D]`."""
        model = x_BTD.shape[-1]
        gate_BTF = Projection("BTD,DF->BTF", shape=(model, self.d_ff), name="gate")(x_BTD)
        up_BTF = Projection("BTD,DF->BTF", shape=(model, self.d_ff), name="up")(x_BTD)
        down = Projection(
            "BTF,FD->BTD", shape=(self.d_ff, model), scale=self.out_scale, name="down"
        )
        return down(jax.nn.silu(gate_BTF) * up_BTF)
