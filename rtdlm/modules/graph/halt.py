"""When a node stops hopping: its own probability of halting after each hop.

    lambda_k = sigmoid(6 tanh(w . [h_k, x] / 6))         halt now, having come so far

A node's answer is sum_k p_k h_k, and sum_k k p_k the hops it takes, which a loss can price; p is
that of `rtdlm.modules.primitives.halting`.

Axes: B batch, N nodes, D features.
"""

import haiku as hk
import jax
import jax.numpy as jnp

from rtdlm.modules.primitives import Projection, bounded


class HaltGate(hk.Module):
    """The logit of halting, from a node's state and what it was given."""

    def __call__(self, h_BND: jax.Array, given_BND: jax.Array) -> jax.Array:
        """`[B, N]`, float32 and bounded."""
        seen_BNI = jnp.concatenate([h_BND, given_BND], axis=-1).astype(jnp.float32)
        shape = (seen_BNI.shape[-1], 1)
        logit_BN1 = Projection("BNI,IO->BNO", shape=shape, bias=True, name="logit")(seen_BNI)
        return bounded(logit_BN1[..., 0])
