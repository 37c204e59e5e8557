"""The losses of a core that can be left after every step.

    main        sum_k s_k nll_k        s_k = even / K + (1 - even) p_k,  p_k without gradient
    spent       sum_k p_k (nll_k + price k)        nll_k without gradient
    ponder      KL(p || uniform)
    unsure      mean_k of the cross-entropy of confidence_k against "the first choice is right"

The first trains layers and tables, at every exit but more where it is taken; the others train the
policy alone, whose input carries no gradient. `spent` is the expected loss and cost themselves
(arXiv 2107.05407): its gradient needs neither samples nor a baseline.

Axes: K exits, B batch, T time, D model, V vocabulary.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rtdlm.models.core import AllExits
from rtdlm.modules import head
from rtdlm.modules.controller import divergence_from_uniform, expected
from rtdlm.modules.primitives import log_halting


class Pondered(NamedTuple):
    """Of every token, float32; only the first three carry gradient, to the policy."""

    spent_BT: jax.Array
    """[nats]"""
    ponder_BT: jax.Array
    """[nats]"""
    unsure_BT: jax.Array
    """[nats]"""
    steps_BT: jax.Array
    """Steps after which the token would have stopped."""
    gain_BT: jax.Array
    """How much less its loss is at the last exit than at the first [nats]."""


class ExitLoss(NamedTuple):
    """What training needs of all exits."""

    objective: jax.Array
    """Of layers and tables: a sum over tokens."""
    tokens: head.TokenStatistics
    """At the last exit."""
    pondered: Pondered


def exit_losses(
    exits: AllExits,
    table_VD: jax.Array,
    labels_BT: jax.Array,
    terms: head.LossTerms,
    *,
    even: float,
    cap: float | None,
    chunk_size: int,
) -> ExitLoss:
    """All of the above, of one batch.

    Args:
        exits: normalised states and logits after every step.
        table_VD: output table.
        labels_BT: the tokens that follow.
        terms: what the objective weighs.
        even: share of the loss that is spread over all exits alike.
        cap: logit soft cap, or None.
        chunk_size: positions of a row whose logits exist at one time.
    """
    count, batch = exits.x_KBTD.shape[:2]
    log_halt_BTK = log_halting(jnp.moveaxis(exits.halt_KBT[:-1], 0, -1))
    halt_BTK = jnp.exp(log_halt_BTK)
    share_KBT = even / count + (1 - even) * jnp.moveaxis(jax.lax.stop_gradient(halt_BTK), -1, 0)

    def flat(x: jax.Array) -> jax.Array:
        return x.reshape(count * batch, *x.shape[2:])

    labels = jnp.broadcast_to(labels_BT[None], (count, *labels_BT.shape))
    loss = head.token_loss(
        flat(exits.x_KBTD),
        table_VD,
        flat(labels),
        terms._replace(weights_BT=flat(share_KBT * terms.weights_BT[None])),
        cap=cap,
        chunk_size=chunk_size,
    )
    tokens = jax.tree.map(
        lambda x: jax.lax.stop_gradient(x.reshape(count, batch, *x.shape[1:])), loss.tokens
    )
    nll_BTK = jnp.moveaxis(tokens.nll, 0, -1)
    step_11K = jnp.arange(1, count + 1, dtype=jnp.float32)[None, None]
    cost_BTK = exits.price_B[:, None, None] * step_11K
    right_KBT = tokens.top1
    odds_KBT = exits.confidence_KBT
    unsure_KBT = jax.nn.softplus(odds_KBT) - right_KBT * odds_KBT
    pondered = Pondered(
        spent_BT=expected(halt_BTK, nll_BTK + cost_BTK),
        ponder_BT=divergence_from_uniform(log_halt_BTK),
        unsure_BT=jnp.mean(unsure_KBT, axis=0),
        steps_BT=exits.steps_BT,
        gain_BT=nll_BTK[..., 0] - nll_BTK[..., -1],
    )
    return ExitLoss(loss.objective, jax.tree.map(lambda x: x[-1], tokens), pondered)
