"""How a repeated step changes its state: a copy gate that can leave it as it is.

    h <- h + z (candidate - h)        z = sigmoid(W x + e_step)

x is what the state began from, put in again at every step. The gate, not the candidate, knows the
number of the step, so that the step stays the same operation however often it is run (NDR, arXiv
2110.07732; input injection as in arXiv 2502.05171).

Axes: N any leading axes, D features of what was given, E features of the state.
"""

import haiku as hk
import jax
import jax.numpy as jnp

from rtdlm.modules.primitives import Projection


class CopyGate(hk.Module):
    """Opens at every step as far as what was given says."""

    def __init__(self, *, num_steps: int, features: int = 1, name: str = "copy_gate") -> None:
        """`features` is that of the state, or 1 for one gate for all of them."""
        super().__init__(name=name)
        self.num_steps = num_steps
        self.features = features

    @hk.name_like("__call__")
    def opens(self, given_ND: jax.Array) -> jax.Array:
        """`[N, features]` float32: the part of z's logit that is the same at every step."""
        flat_XD = given_ND.astype(jnp.float32).reshape(-1, given_ND.shape[-1])
        shape = (flat_XD.shape[-1], self.features)
        logit_XE = Projection("XD,DE->XE", shape=shape, bias=True, name="open")(flat_XD)
        return logit_XE.reshape(*given_ND.shape[:-1], self.features)

    def __call__(
        self, state: jax.Array, candidate: jax.Array, opens_NE: jax.Array, step: jax.Array
    ) -> jax.Array:
        """`state` moved towards `candidate`; both are `[N, E]`."""
        shape = (self.num_steps, self.features)
        steps = hk.get_parameter("steps", shape, jnp.float32, hk.initializers.Constant(0.0))
        own_E = steps[step].reshape((1,) * (opens_NE.ndim - 1) + (self.features,))
        gate_NE = jax.nn.sigmoid(opens_NE + own_E).astype(state.dtype)
        return state + gate_NE * (candidate - state)
