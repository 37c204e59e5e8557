"""A layer of SwiGLU experts that computes only the chosen ones, and what all tokens share.

How tokens come to their experts is `rtdlm.modules.experts.capacity` or `.dropless`. Shared experts
(arXiv 2401.06066) work on every token, and what they make is added.

Axes: B batch, T time, D model, E experts, C rows, F hidden, J choices.
"""

from collections.abc import Callable
from functools import partial

import haiku as hk
import jax
import jax.numpy as jnp

from rtdlm.config import ExpertsConfig
from rtdlm.modules.experts.capacity import through_queues
from rtdlm.modules.experts.dropless import Apply, through_tiles
from rtdlm.modules.experts.router import ExpertStatistics, route
from rtdlm.modules.primitives import SILU, Projection, dropout, gated

Layer = Callable[[jax.Array], jax.Array]


class SparseExperts(hk.Module):
    """Routes each token of a row to a few of the layer's experts."""

    def __init__(
        self,
        config: ExpertsConfig,
        *,
        d_ff: int,
        out_scale: float,
        shared: Callable[[], Layer] | None = None,
        name: str = "experts",
    ) -> None:
        """
        Args:
            config: how many experts, and how tokens come to them.
            d_ff: hidden width of one expert.
            out_scale: scale of what is written before training.
            shared: makes the layer that all tokens share; None has none.
            name: module name, part of the parameters' paths.
        """
        super().__init__(name=name)
        self.config = config
        self.d_ff = d_ff
        self.out_scale = out_scale
        self.shared = shared

    def __call__(
        self, x_BTD: jax.Array, *, weights_BT: jax.Array, spread: Layer | None = None
    ) -> tuple[jax.Array, ExpertStatistics]:
        """`[B, T, D]` -> `[B, T, D]`; a token whose experts are all full gets zeros of them.

        `spread` changes the router's logits, `[B, T, E]`, before experts are chosen.
        """
        config, num_experts = self.config, self.config.num_experts
        drops = config.dispatch == "capacity"
        capacity = config.capacity(x_BTD.shape[1]) if drops else None
        bias_E = None
        if config.bias_rate is not None:
            zeros = hk.initializers.Constant(0.0)
            bias_E = hk.get_parameter("bias", (num_experts,), jnp.float32, zeros)
        routing, statistics = route(
            self._logits(x_BTD) if spread is None else spread(self._logits(x_BTD)),
            weights_BT,
            top_k=config.choices,
            capacity=capacity,
            scores=config.scores,
            bias_E=bias_E,
        )
        if capacity is not None:
            run = partial(self._run, apply=_batched)
            back_BTJD = through_queues(
                x_BTD, routing, run, num_experts=num_experts, capacity=capacity
            )
        else:
            back_BTJD = through_tiles(
                x_BTD, routing, self._run, weights_BT=weights_BT, num_experts=num_experts
            )
        gate_BTJ = routing.gate_BTJ.astype(x_BTD.dtype)
        y_BTD = jnp.einsum("BTJD,BTJ->BTD", back_BTJD, gate_BTJ)
        if self.shared is not None:
            y_BTD += self.shared()(x_BTD)
        return y_BTD, statistics

    @hk.transparent
    def _logits(self, x_BTD: jax.Array) -> jax.Array:
        config = self.config
        # The router decides in float32: in bfloat16 near ties would flip between two runs.
        x_f32 = x_BTD.astype(jnp.float32)
        # A key is there in training alone, as for dropout.
        jitter = config.jitter or 0.0
        key = hk.maybe_next_rng_key() if jitter else None
        if key is not None:
            low, high = 1.0 - jitter, 1.0 + jitter
            x_f32 *= jax.random.uniform(key, x_f32.shape, minval=low, maxval=high)
        shape = (x_BTD.shape[-1], config.num_experts)
        logits_BTE = Projection("BTD,DE->BTE", shape=shape, name="router")(x_f32)
        return logits_BTE if config.temperature is None else logits_BTE / config.temperature

    @hk.transparent
    def _run(self, x_BECD: jax.Array, apply: Apply) -> jax.Array:
        """Every row's expert; `apply` knows which one that is."""
        num_experts, model = self.config.num_experts, x_BECD.shape[-1]
        inner, outer = (num_experts, model, self.d_ff), (num_experts, self.d_ff, model)
        gate = Projection("BECD,EDF->BECF", shape=inner, name="gate")
        up = Projection("BECD,EDF->BECF", shape=inner, name="up")
        down = Projection("BECF,EFD->BECD", shape=outer, scale=self.out_scale, name="down")
        hidden_BECF = gated(SILU, apply(gate, x_BECD), apply(up, x_BECD))
        return apply(down, dropout(hidden_BECF, rate=self.config.dropout or 0.0))


def _batched(layer: Projection, x_BECD: jax.Array) -> jax.Array:
    return layer(x_BECD)
