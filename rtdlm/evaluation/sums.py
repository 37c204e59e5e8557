"""Token statistics as sums, which add up over micro-batches, devices and batches.

A mean of means over batches with different numbers of tokens is not the mean over tokens; sums
divided once at the end are.

Axes: B batch, T time, M modules to call.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rtdlm.models.passing import Scores
from rtdlm.modules.head import TokenStatistics


class TokenSums(NamedTuple):
    """Weighted sums over tokens, float32, all but the last scalars; `weight` makes them means."""

    nll: jax.Array
    """Negative log-likelihood of the labels [nats]."""
    top1: jax.Array
    top5: jax.Array
    entropy: jax.Array
    """Of the predicted distributions [nats]."""
    weight: jax.Array
    steps: jax.Array | None = None
    """Of a controller's core; None without one."""
    calls_M: jax.Array | None = None
    """Of each module that the core may call; None where there is none."""


def divisor(weight: jax.Array) -> jax.Array:
    """`weight` to divide a sum by; 1 where nothing counts, so that the mean of nothing is 0."""
    return jnp.where(weight > 0, weight, 1.0)


def token_sums(statistics: TokenStatistics, weights_BT: ArrayLike) -> TokenSums:
    """Sums of `statistics` over all tokens, each with its weight."""

    def total(values_BT: jax.Array) -> jax.Array:
        return jnp.sum(values_BT * weights_BT)

    return TokenSums(
        nll=total(statistics.nll),
        top1=total(statistics.top1),
        top5=total(statistics.top5),
        entropy=total(statistics.entropy),
        weight=jnp.sum(jnp.asarray(weights_BT)),
    )


def score_sums(scores: Scores, weights_BT: ArrayLike) -> TokenSums:
    """`token_sums` with the steps and calls that were run, if any are counted."""
    sums = token_sums(scores.tokens, weights_BT)
    if scores.spent is None:
        return sums
    spent, weights_BT = scores.spent, jnp.asarray(weights_BT)
    sums = sums._replace(steps=jnp.sum(spent.steps_BT * weights_BT))
    if spent.calls_BTM is None:
        return sums
    return sums._replace(calls_M=jnp.sum(spent.calls_BTM * weights_BT[..., None], axis=(0, 1)))
