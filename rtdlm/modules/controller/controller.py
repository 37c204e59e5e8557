"""The policy: how confident, whether to stop, and what to run next.

    s   = gelu(W f + e_step + a log(price) + b spent + c confidence)
    halt, choice_1 .. choice_M = 6 tanh(V s / 6)

with f a summary of what was computed so far and `confidence` the log odds, from f alone, that the
answer is right as it stands. Every logit is bounded, so that none saturates. The confidence is
trained against correctness and read by the rest without gradient.

Axes: N any leading axes, F features of the summary, H hidden, M modules.
"""

from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from rtdlm.modules.primitives import Projection, bounded

HIDDEN = 64
PRICE_SCALE = 3.0
"""Logs of prices are divided by this: they come as numbers near one."""


class Decision(NamedTuple):
    """What the policy makes of one step; float32 logits, bounded."""

    halt_N: jax.Array
    choice_NM: jax.Array
    """Of each module, next; M may be 0."""
    confidence_N: jax.Array
    """That the answer is right as it stands."""


class ComputeController(hk.Module):
    """One small net for all steps."""

    def __init__(
        self,
        *,
        num_steps: int,
        num_modules: int = 0,
        hidden: int = HIDDEN,
        name: str = "controller",
    ) -> None:
        """
        Args:
            num_steps: steps that there are at most.
            num_modules: modules to choose among.
            hidden: features inside.
            name: module name, part of the parameters' paths.
        """
        super().__init__(name=name)
        self.num_steps = num_steps
        self.num_modules = num_modules
        self.hidden = hidden

    def __call__(
        self, summary_NF: jax.Array, *, step: jax.Array, price_N: jax.Array, spent_N: jax.Array
    ) -> Decision:
        """
        Args:
            summary_NF: what there is to go by.
            step: int32 scalar, from 0.
            price_N: of a unit of cost [loss a unit].
            spent_N: share of the largest cost that was spent.
        """
        seen_NF = jax.lax.stop_gradient(summary_NF.astype(jnp.float32))
        flat_XF = seen_NF.reshape(-1, seen_NF.shape[-1])
        features = flat_XF.shape[-1]
        sure = Projection("XF,FO->XO", shape=(features, 1), bias=True, name="confidence")(flat_XF)
        confidence_X1 = bounded(sure)
        told_X3 = jnp.stack(
            [
                jnp.log(price_N.reshape(-1)) / PRICE_SCALE,
                spent_N.reshape(-1),
                jax.lax.stop_gradient(confidence_X1[:, 0]),
            ],
            axis=-1,
        )
        steps = hk.get_parameter(
            "steps", (self.num_steps, self.hidden), jnp.float32, hk.initializers.RandomNormal(1.0)
        )
        inner = Projection("XF,FH->XH", shape=(features, self.hidden), bias=True, name="summary")
        told = Projection("XF,FH->XH", shape=(3, self.hidden), name="told")
        state_XH = jax.nn.gelu(inner(flat_XF) + told(told_X3) + steps[step][None])
        outer = Projection(
            "XH,HO->XO", shape=(self.hidden, 1 + self.num_modules), bias=True, name="decide"
        )
        logit_XO = bounded(outer(state_XH))
        lead = seen_NF.shape[:-1]
        return Decision(
            logit_XO[:, 0].reshape(lead),
            logit_XO[:, 1:].reshape(*lead, self.num_modules),
            confidence_X1.reshape(lead),
        )
