"""Top-k routing with a place in a bounded queue for every choice.

    p = softmax(x W_r);  choose the k largest;  gates = p of the chosen, rescaled to sum to one

A single choice keeps its p: rescaled it would always be one and the loss could not teach the
router (arXiv 2101.03961, eq. 2).

Each expert takes at most `capacity` tokens of a row, first come first served along the row, so
that whether a token is dropped depends on tokens before it alone. Two losses keep the router
healthy: load balancing, E * sum_e f_e P_e / k with f_e the share of tokens that chose e and P_e
the mean probability (arXiv 2101.03961, eq. 4; 1 when even), and the router z-loss,
mean(logsumexp(logits)^2) (arXiv 2202.08906, eq. 5).

Axes: B batch, T time, E experts, J choices (k of them).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class ExpertStatistics(NamedTuple):
    """Health of one layer's routing; the first two carry gradient."""

    balance: jax.Array
    """Load-balancing loss; 1 when even, E / k when all tokens choose the same experts."""
    z: jax.Array
    """Mean squared log-partition of the router's logits."""
    usage_E: jax.Array
    """Share of choices that fell on each expert."""
    dropped: jax.Array
    """Share of choices that found their expert full."""


class Routing(NamedTuple):
    """Where every token's choices go."""

    expert_BTJ: jax.Array
    slot_BTJ: jax.Array
    """Place in the expert's queue; a place at or beyond the capacity is a drop."""
    gate_BTJ: jax.Array
    """Share of the result; zero for drops and padding."""


def route(
    logits_BTE: jax.Array, weights_BT: jax.Array, *, top_k: int, capacity: int
) -> tuple[Routing, ExpertStatistics]:
    """Assigns each token with weight above zero to `top_k` experts.

    Args:
        logits_BTE: float32 router scores.
        weights_BT: 0 for padding, which takes no place and counts in no statistic.
        top_k: experts a token.
        capacity: places an expert has in each row.
    """
    num_experts = logits_BTE.shape[-1]
    real_BT = (weights_BT > 0).astype(jnp.float32)
    p_BTE = jax.nn.softmax(logits_BTE, axis=-1)
    gate_BTJ, expert_BTJ = jax.lax.top_k(p_BTE, top_k)
    if top_k > 1:
        gate_BTJ = gate_BTJ / jnp.sum(gate_BTJ, axis=-1, keepdims=True)
    chosen_BTJE = jax.nn.one_hot(expert_BTJ, num_experts) * real_BT[:, :, None, None]
    batch, length = weights_BT.shape
    in_order = chosen_BTJE.reshape(batch, length * top_k, num_experts)
    ahead = (jnp.cumsum(in_order, axis=1) - in_order).reshape(chosen_BTJE.shape)
    slot_BTJ = jnp.sum(ahead * chosen_BTJE, axis=-1).astype(jnp.int32)
    kept_BTJ = (slot_BTJ < capacity).astype(jnp.float32) * real_BT[:, :, None]
    slot_BTJ = jnp.where(kept_BTJ > 0, slot_BTJ, capacity)

    count = jnp.maximum(jnp.sum(real_BT), 1.0)
    usage_E = jnp.sum(chosen_BTJE, axis=(0, 1, 2)) / (count * top_k)
    mean_p_E = jnp.sum(p_BTE * real_BT[:, :, None], axis=(0, 1)) / count
    log_partition_BT = jax.nn.logsumexp(logits_BTE, axis=-1)
    statistics = ExpertStatistics(
        balance=num_experts * jnp.sum(usage_E * mean_p_E),
        z=jnp.sum(jnp.square(log_partition_BT) * real_BT) / count,
        usage_E=usage_E,
        dropped=1.0 - jnp.sum(kept_BTJ) / (count * top_k),
    )
    return Routing(expert_BTJ, slot_BTJ, gate_BTJ * kept_BTJ), statistics
