"""Balancing without a loss (arXiv 2408.15664): a bias moves choices away from crowded experts.

    b_e <- b_e + rate * sign(mean load - load_e)      after every step

The bias enters choices only, so the loss has no gradient for it, and the rule is none of the
optimizer's. But what the rule needs, the batch's load, has to add up over micro-batches, devices
and layers exactly as gradients do. So it travels as one: the "gradient" of the bias is load less
mean load, whatever the loss is, and `rtdlm.training.balance` keeps it from clipping, moments and
decay and takes the step.

Axes: B batch, T time, E experts, J choices.
"""

import re

import jax
import jax.numpy as jnp

_BIAS = re.compile(r"(^|/)experts/bias$")


def is_bias(path: str) -> bool:
    """Whether the parameter at `path` is such a bias, whose "gradient" is a load."""
    return _BIAS.search(path) is not None


@jax.custom_vjp
def teach_bias(gate_BTJ: jax.Array, bias_E: jax.Array, load_E: jax.Array) -> jax.Array:
    """`gate_BTJ` as it is; differentiating it gives `bias_E` the excess of `load_E`."""
    del bias_E, load_E
    return gate_BTJ


def _forward(
    gate_BTJ: jax.Array, bias_E: jax.Array, load_E: jax.Array
) -> tuple[jax.Array, jax.Array]:
    del bias_E
    return gate_BTJ, load_E


def _backward(load_E: jax.Array, change_BTJ: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    return change_BTJ, load_E - jnp.mean(load_E), jnp.zeros_like(load_E)


teach_bias.defvjp(_forward, _backward)
