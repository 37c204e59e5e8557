"""The losses of a core that can be left after every step.

    main        sum_k s_k nll_k        s_k = even / K + (1 - even) p_k,  p_k without gradient
    spent       sum_k p_k (nll_k + price cost_k)   nll_k without gradient
    ponder      KL(p || uniform), and of choices, each called or not with probability 1/2
    unsure      mean_k of the cross-entropy of confidence_k against "the first choice is right"

The first trains layers and tables, at every exit but more where it is taken; the others train the
policy alone, whose input carries no gradient. `spent` is the expected loss and cost themselves
(arXiv 2107.05407): its gradient needs neither samples nor a baseline.

Exit k costs k steps and, with modules to call, what was called before it. Choices have the gradient
of the first loss, see `rtdlm.models.called`, and of what calls cost at its weights:

    called      sum_k s_k price sum_(j<k) sum_m c_m sigmoid(choice_jm)      s_k without gradient

Axes: K exits, B batch, T time, D model, V vocabulary, M modules to call.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rtdlm.models.core_state import AllExits
from rtdlm.modules import head
from rtdlm.modules.controller import divergence_from_uniform, expected
from rtdlm.modules.primitives import log_halting


class Pondered(NamedTuple):
    """Of every token, float32; only the first three and the last carry gradient, to the policy."""

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
    calls_BT: jax.Array | None = None
    """Modules that the token would have called by then; None where there are none to call."""
    called_BT: jax.Array | None = None
    """What calls cost, at the weights of the objective [nats]."""


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
    costs: Sequence[float],
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
        costs: of a call of each module [steps].
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
    ponder_BT, called_BT = divergence_from_uniform(log_halt_BTK), None
    price_B11 = exits.price_B[:, None, None]
    cost_BTK = price_B11 * step_11K
    if exits.choice_KBTM is not None:
        called_BTK = price_B11 * _called(exits.choice_KBTM, costs)
        cost_BTK = cost_BTK + jax.lax.stop_gradient(called_BTK)
        called_BT = jnp.sum(jnp.moveaxis(share_KBT, 0, -1) * called_BTK, axis=-1)
        ponder_BT = ponder_BT + _undecided(exits.choice_KBTM)
    right_KBT = tokens.top1
    odds_KBT = exits.confidence_KBT
    unsure_KBT = jax.nn.softplus(odds_KBT) - right_KBT * odds_KBT
    pondered = Pondered(
        spent_BT=expected(halt_BTK, nll_BTK + cost_BTK),
        ponder_BT=ponder_BT,
        unsure_BT=jnp.mean(unsure_KBT, axis=0),
        steps_BT=exits.steps_BT,
        gain_BT=nll_BTK[..., 0] - nll_BTK[..., -1],
        calls_BT=exits.calls_BT,
        called_BT=called_BT,
    )
    return ExitLoss(loss.objective, jax.tree.map(lambda x: x[-1], tokens), pondered)


def _called(choice_KBTM: jax.Array, costs: Sequence[float]) -> jax.Array:
    """`[B, T, K]`: what is called before each exit, with the probability of each choice [steps]."""
    cost_M = jnp.asarray(costs, jnp.float32)
    step_KBT = jnp.einsum("KBTM,M->KBT", jax.nn.sigmoid(choice_KBTM), cost_M)
    # What the last step chose is not run, and the first runs what nobody chose.
    before_KBT = jnp.cumsum(step_KBT, axis=0) - step_KBT
    return jnp.moveaxis(before_KBT, 0, -1)


def _undecided(choice_KBTM: jax.Array) -> jax.Array:
    """`[B, T]`: divergence of calling or not from even odds, a mean over choices [nats]."""
    share = jax.nn.sigmoid(choice_KBTM[:-1])
    logs = jax.nn.log_sigmoid(choice_KBTM[:-1]), jax.nn.log_sigmoid(-choice_KBTM[:-1])
    return jnp.log(2.0) + jnp.mean(share * logs[0] + (1 - share) * logs[1], axis=(0, -1))
