"""Top-k routing: which experts a token uses, with which shares, and where it waits for them.

    s = softmax(x W_r)  or  sigmoid(x W_r);   choose the k largest of s + b
    gates = s of the chosen, rescaled to sum to one (for sigmoid: arXiv 2412.19437, eq. 13 to 16)

A single choice keeps its s: rescaled it would always be one and the loss could not teach the
router (arXiv 2101.03961, eq. 2). The bias b, if there is one, moves choices and no gate; see
`rtdlm.modules.experts.balance`.

With a capacity each expert takes at most that many tokens of a row, first come first served along
the row, so that whether a token is dropped depends on tokens before it alone. Two losses keep the
router healthy: load balancing, E * sum_e f_e P_e / k with f_e the share of tokens that chose e and
P_e the mean of s, rescaled to sum to one (arXiv 2101.03961, eq. 4; 1 when even), and the router
z-loss, mean(logsumexp(logits)^2) (arXiv 2202.08906, eq. 5).

Axes: B batch, T time, E experts, J choices (k of them).
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from rtdlm.modules.experts.balance import teach_bias

Scores = Literal["softmax", "sigmoid"]


class ExpertStatistics(NamedTuple):
    """Health of one layer's routing; the first two carry gradient."""

    balance: jax.Array
    """Load-balancing loss; 1 when even, E / k when all tokens choose the same experts."""
    z: jax.Array
    """Mean squared log-partition of the router's logits."""
    usage_E: jax.Array
    """Share of choices that fell on each expert."""
    dropped: jax.Array
    """Share of choices that found their expert full; 0 where nothing is dropped."""


class Routing(NamedTuple):
    """Where every token's choices go."""

    expert_BTJ: jax.Array
    slot_BTJ: jax.Array | None
    """Place in the expert's queue; a place at or beyond the capacity is a drop. None without a
    capacity."""
    gate_BTJ: jax.Array
    """Share of the result; zero for drops and padding."""


def route(
    logits_BTE: jax.Array,
    weights_BT: jax.Array,
    *,
    top_k: int,
    capacity: int | None,
    scores: Scores = "softmax",
    bias_E: jax.Array | None = None,
) -> tuple[Routing, ExpertStatistics]:
    """Assigns each token with weight above zero to `top_k` experts.

    Args:
        logits_BTE: float32 router scores.
        weights_BT: 0 for padding, which takes no place and counts in no statistic.
        top_k: experts a token.
        capacity: places an expert has in each row; None is one for everybody.
        scores: what makes scores of logits.
        bias_E: added to the scores for choosing alone; its gradient is made here.
    """
    num_experts = logits_BTE.shape[-1]
    real_BT = (weights_BT > 0).astype(jnp.float32)
    score_BTE = jax.nn.softmax(logits_BTE) if scores == "softmax" else jax.nn.sigmoid(logits_BTE)
    gate_BTJ, expert_BTJ = _choose(score_BTE, bias_E, top_k)
    if top_k > 1:
        # Sigmoids may all be zero.
        gate_BTJ = gate_BTJ / jnp.maximum(jnp.sum(gate_BTJ, axis=-1, keepdims=True), SMALLEST)
    chosen_BTJE = jax.nn.one_hot(expert_BTJ, num_experts) * real_BT[:, :, None, None]
    slot_BTJ, kept_BTJ = None, jnp.broadcast_to(real_BT[:, :, None], gate_BTJ.shape)
    if capacity is not None:
        slot_BTJ = _queue(chosen_BTJE)
        kept_BTJ = (slot_BTJ < capacity).astype(jnp.float32) * kept_BTJ
        slot_BTJ = jnp.where(kept_BTJ > 0, slot_BTJ, capacity)

    count = jnp.maximum(jnp.sum(real_BT), 1.0)
    load_E = jnp.sum(chosen_BTJE, axis=(0, 1, 2))
    usage_E = load_E / (count * top_k)
    p_BTE = score_BTE
    if scores == "sigmoid":
        p_BTE /= jnp.maximum(jnp.sum(score_BTE, axis=-1, keepdims=True), SMALLEST)
    mean_p_E = jnp.sum(p_BTE * real_BT[:, :, None], axis=(0, 1)) / count
    log_partition_BT = jax.nn.logsumexp(logits_BTE, axis=-1)
    statistics = ExpertStatistics(
        balance=num_experts * jnp.sum(usage_E * mean_p_E),
        z=jnp.sum(jnp.square(log_partition_BT) * real_BT) / count,
        usage_E=usage_E,
        dropped=1.0 - jnp.sum(kept_BTJ) / (count * top_k),
    )
    gate_BTJ *= kept_BTJ
    if bias_E is not None:
        gate_BTJ = teach_bias(gate_BTJ, bias_E, load_E)
    return Routing(expert_BTJ, slot_BTJ, gate_BTJ), statistics


SMALLEST = 1e-30


def _choose(
    score_BTE: jax.Array, bias_E: jax.Array | None, top_k: int
) -> tuple[jax.Array, jax.Array]:
    """Scores and numbers of the chosen experts, `[B, T, J]` each."""
    if bias_E is None:
        gate_BTJ, expert_BTJ = jax.lax.top_k(score_BTE, top_k)
        return gate_BTJ, expert_BTJ
    _, expert_BTJ = jax.lax.top_k(jax.lax.stop_gradient(score_BTE + bias_E[None, None]), top_k)
    return jnp.take_along_axis(score_BTE, expert_BTJ, axis=-1), expert_BTJ


def _queue(chosen_BTJE: jax.Array) -> jax.Array:
    """Choices of the same expert before each one in its row, int32 `[B, T, J]`."""
    batch, length, top_k, num_experts = chosen_BTJE.shape
    in_order = chosen_BTJE.reshape(batch, length * top_k, num_experts)
    ahead = (jnp.cumsum(in_order, axis=1) - in_order).reshape(chosen_BTJE.shape)
    return jnp.sum(ahead * chosen_BTJE, axis=-1).astype(jnp.int32)
