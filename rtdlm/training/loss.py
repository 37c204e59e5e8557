"""The objective of a batch, as sums that add up over micro-batches and devices.

    loss = sum_t w_t [ (1 - s) nll_t + s (logZ_t - mean logit_t) + z logZ_t^2 ] / sum_t w_t

with label smoothing s and z-loss weight z, plus the experts' balancing losses where there are
experts. All terms are float32; logits are made in chunks (`rtdlm.modules.head`).

Axes: B batch, T time, L layers, E experts.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rtdlm.models.decoder import Scores
from rtdlm.training.knobs import Knobs


class Sums(NamedTuple):
    """Weighted sums over tokens; divide by `weight` for means."""

    loss: jax.Array
    nll: jax.Array
    top1: jax.Array
    top5: jax.Array
    entropy: jax.Array
    balance: jax.Array
    """Experts' load-balancing loss, mean over layers, times the weight; zero without experts."""
    router_z: jax.Array
    dropped: jax.Array
    weight: jax.Array


def loss_sums(scores: Scores, weights_BT: jax.Array, knobs: Knobs) -> Sums:
    """Sums over the batch; `loss` is what is minimised, over `weight`."""
    tokens = scores.tokens
    total = lambda values_BT: jnp.sum(values_BT * weights_BT)  # noqa: E731
    weight = jnp.sum(weights_BT)
    nll, smoothing = total(tokens.nll), knobs.label_smoothing
    spread = total(tokens.log_partition - tokens.mean_logit)
    loss = (1.0 - smoothing) * nll + smoothing * spread
    loss = loss + knobs.z_loss * total(jnp.square(tokens.log_partition))
    balance = router_z = dropped = jnp.zeros((), jnp.float32)
    if scores.experts is not None:
        balance, router_z, dropped = (
            jnp.mean(value_L) * weight
            for value_L in (scores.experts.balance, scores.experts.z, scores.experts.dropped)
        )
        loss = loss + knobs.balance_weight * balance + knobs.router_z_weight * router_z
    return Sums(
        loss=loss,
        nll=nll,
        top1=total(tokens.top1),
        top5=total(tokens.top5),
        entropy=total(tokens.entropy),
        balance=balance,
        router_z=router_z,
        dropped=dropped,
        weight=weight,
    )
