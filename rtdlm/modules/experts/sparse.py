"""A layer of SwiGLU experts that computes only the chosen ones.

Tokens are gathered into each expert's queue, the experts run as one batched product over their
queues, and results are gathered back: work is k * capacity_factor token passes, whatever the
number of experts.

Axes: B batch, T time, D model, E experts, C capacity, F hidden, J choices.
"""

import haiku as hk
import jax
import jax.numpy as jnp

from rtdlm.config import ExpertsConfig
from rtdlm.modules.experts.router import ExpertStatistics, Routing, route
from rtdlm.modules.primitives import Projection


class SparseExperts(hk.Module):
    """Routes each token of a row to a few of the layer's experts."""

    def __init__(
        self, config: ExpertsConfig, *, d_ff: int, out_scale: float, name: str = "experts"
    ) -> None:
        super().__init__(name=name)
        self.config = config
        self.d_ff = d_ff
        self.out_scale = out_scale

    def __call__(
        self, x_BTD: jax.Array, *, weights_BT: jax.Array
    ) -> tuple[jax.Array, ExpertStatistics]:
        """`[B, T, D]` -> `[B, T, D]`; a token whose experts are all full gets zeros."""
        num_experts, top_k = self.config.num_experts, self.config.choices
        length, model = x_BTD.shape[1:]
        capacity = self.config.capacity(length)
        router = Projection("BTD,DE->BTE", shape=(model, num_experts), name="router")
        # The router decides in float32: in bfloat16 near ties would flip between two runs.
        scores_BTE = router(x_BTD.astype(jnp.float32))
        routing, statistics = route(scores_BTE, weights_BT, top_k=top_k, capacity=capacity)
        queues_BECD = _gather(x_BTD, routing, num_experts=num_experts, capacity=capacity)
        results_BECD = self._run(queues_BECD)
        rows = jnp.arange(x_BTD.shape[0])[:, None, None]
        back_BTJD = results_BECD.at[rows, routing.expert_BTJ, routing.slot_BTJ].get(
            mode="fill", fill_value=0
        )
        y_BTD = jnp.einsum("BTJD,BTJ->BTD", back_BTJD, routing.gate_BTJ.astype(x_BTD.dtype))
        return y_BTD, statistics

    @hk.transparent
    def _run(self, x_BECD: jax.Array) -> jax.Array:
        num_experts, model = x_BECD.shape[1], x_BECD.shape[-1]
        inner = (num_experts, model, self.d_ff)
        gate_BECF = Projection("BECD,EDF->BECF", shape=inner, name="gate")(x_BECD)
        up_BECF = Projection("BECD,EDF->BECF", shape=inner, name="up")(x_BECD)
        down = Projection(
            "BECF,EFD->BECD",
            shape=(num_experts, self.d_ff, model),
            scale=self.out_scale,
            name="down",
        )
        return down(jax.nn.silu(gate_BECF) * up_BECF)


def _gather(x_BTD: jax.Array, routing: Routing, *, num_experts: int, capacity: int) -> jax.Array:
    """Each expert's queue of tokens; empty places hold zeros."""
    batch, length, _ = x_BTD.shape
    rows = jnp.arange(batch)[:, None, None]
    tokens_BTJ = jnp.broadcast_to(jnp.arange(length)[None, :, None], routing.slot_BTJ.shape)
    # A queue is a table of token places; `length` marks an empty place.
    source_BEC = jnp.full((batch, num_experts, capacity), length, jnp.int32)
    source_BEC = source_BEC.at[rows, routing.expert_BTJ, routing.slot_BTJ].set(
        tokens_BTJ, mode="drop"
    )
    return x_BTD.at[rows, source_BEC].get(mode="fill", fill_value=0)
