"""SwiGLU feed-forward (arXiv 2002.05202): y = (silu(x W_gate) * x W_up) W_down.

Axes: B batch, T time, D model, F hidden.
"""

import haiku as hk
import jax
import jax.numpy as jnp

from rtdlm.modules.primitives import Projection, narrow


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
        return down(gated(gate_BTF, up_BTF))


@jax.custom_vjp
def gated(gate: jax.Array, up: jax.Array) -> jax.Array:
    """silu(gate) * up, computed in float32.

    The gradient is made from the two inputs: automatic differentiation would keep two more arrays
    of the hidden width, and moving those costs more than the arithmetic.
    """
    gate_f32 = gate.astype(jnp.float32)
    return narrow(jax.nn.silu(gate_f32) * up.astype(jnp.float32), gate.dtype)


def _forward(gate: jax.Array, up: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return gated(gate, up), (gate, up)


def _backward(kept: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    # The barrier keeps XLA from sharing the sigmoid with the forward pass, and so from keeping it.
    kept = jax.lax.optimization_barrier(kept)
    gate, up, dy = (array.astype(jnp.float32) for array in (*kept, dy))
    open_share = jax.nn.sigmoid(gate)
    slope = open_share * (1.0 + gate * (1.0 - open_share))
    dtype = kept[0].dtype
    return narrow(dy * up * slope, dtype), narrow(dy * gate * open_share, dtype)


gated.defvjp(_forward, _backward)
