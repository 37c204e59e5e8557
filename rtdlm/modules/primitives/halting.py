"""When to stop: probabilities of halting after each step (PonderNet, arXiv 2107.05407).

    p_s = lambda_s prod_(r < s) (1 - lambda_r)        lambda_s = sigmoid(logit_s)

The last step takes what is left. Logits are bounded, b tanh(logit / b), so that every step keeps a
share above zero and a gate that shut early can still learn.

Axes: N any leading axes, S steps.
"""

import jax
import jax.numpy as jnp

BOUND = 6.0
"""Of the logits."""


def bounded(logit: jax.Array) -> jax.Array:
    """`logit` within -+`BOUND`."""
    return BOUND * jnp.tanh(logit / BOUND)


def log_halting(logit_NS: jax.Array) -> jax.Array:
    """`[N, S + 1]`: logs of the probabilities of halting at each step, which sum to one.

    `logit_NS` holds the logits of all steps but the last, at which everyone halts.
    """
    ones = [(0, 0)] * (logit_NS.ndim - 1)
    come = jnp.cumsum(jax.nn.log_sigmoid(-logit_NS), axis=-1)
    come = jnp.pad(come, (*ones, (1, 0)))
    halt = jnp.pad(jax.nn.log_sigmoid(logit_NS), (*ones, (0, 1)))
    return come + halt


def halting(logit_NS: jax.Array) -> jax.Array:
    """`[N, S + 1]`: the probabilities themselves; see `log_halting`."""
    return jnp.exp(log_halting(logit_NS))
