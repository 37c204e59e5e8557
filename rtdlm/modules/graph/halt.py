"""When to stop: a node's own probability of halting after each hop (arXiv 2107.05407).

    lambda_k = sigmoid(6 tanh(w . [h_k, x] / 6))         halt now, having come so far
    p_k = lambda_k prod_(j < k) (1 - lambda_j),   the last hop takes what is left

A node's answer is sum_k p_k h_k, and sum_k k p_k the hops it takes, which a loss can price. Bounded
logits keep every hop's share above zero, so that a gate that shut early can still learn.

Axes: B batch, N nodes, K hops (0 to the last), D features.
"""

import haiku as hk
import jax
import jax.numpy as jnp

from rtdlm.modules.primitives import Projection

BOUND = 6.0
"""Of the logits."""


class HaltGate(hk.Module):
    """The logit of halting, from a node's state and what it was given."""

    def __call__(self, h_BND: jax.Array, given_BND: jax.Array) -> jax.Array:
        """`[B, N]`, float32, within -+`BOUND`."""
        seen_BNI = jnp.concatenate([h_BND, given_BND], axis=-1).astype(jnp.float32)
        shape = (seen_BNI.shape[-1], 1)
        logit_BN1 = Projection("BNI,IO->BNO", shape=shape, bias=True, name="logit")(seen_BNI)
        return BOUND * jnp.tanh(logit_BN1[..., 0] / BOUND)


def halting(logit_BNK: jax.Array) -> jax.Array:
    """`[B, N, K + 1]` probabilities of halting after each hop, which sum to one.

    `logit_BNK` holds the logits of all hops but the last, after which everyone halts.
    """
    come = jnp.cumsum(jax.nn.log_sigmoid(-logit_BNK), axis=-1)
    come = jnp.pad(come, ((0, 0), (0, 0), (1, 0)))
    halt = jnp.pad(jax.nn.log_sigmoid(logit_BNK), ((0, 0), (0, 0), (0, 1)))
    return jnp.exp(come + halt)
