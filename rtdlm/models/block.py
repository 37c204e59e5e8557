"""One pre-norm decoder block: x + attention(norm(x)), then x + feedforward(norm(x)).

Axes: B batch, T time, S key time, D model.
"""

from typing import Any, NamedTuple

import haiku as hk
import jax
from jax.ad_checkpoint import checkpoint_name

from rtdlm.config import AGIConfig
from rtdlm.modules.attention import GroupedQueryAttention, KVCache, Rotation
from rtdlm.modules.experts import ExpertStatistics, SparseExperts
from rtdlm.modules.feedforward import SwiGLU
from rtdlm.modules.primitives import RMSNorm, dropout
from rtdlm.parallel import constrain


class BlockInput(NamedTuple):
    """What every layer reads beside the residual stream; made once for the whole stack."""

    mask_BTS: jax.Array
    turn: Rotation | None
    positions_BT: jax.Array
    weights_BT: jax.Array


class BlockOutput(NamedTuple):
    """What a layer leaves behind beside the residual stream."""

    cache: KVCache | None
    experts: ExpertStatistics | None


class Block(hk.Module):
    """Attention, then a dense or sparse feed-forward layer, each on a normalised copy."""

    def __init__(self, config: AGIConfig, *, name: str = "block") -> None:
        super().__init__(name=name)
        self.config = config

    def __call__(
        self, x_BTD: jax.Array, given: BlockInput, cache: KVCache | None
    ) -> tuple[jax.Array, BlockOutput]:
        """`[B, T, D]` -> `[B, T, D]` and the layer's cache and statistics."""
        config = self.config
        # Two writes a layer: their variances add up, so each starts smaller in a deeper stack.
        out_scale = (2 * config.num_layers) ** -0.5
        attention = GroupedQueryAttention(
            num_heads=config.num_heads,
            num_kv_heads=config.kv_heads,
            head_dim=config.head_dim,
            qk_norm=config.qk_norm,
            out_scale=out_scale,
        )
        read, cache = attention(
            RMSNorm(name="attention_norm")(x_BTD),
            mask_BTS=given.mask_BTS,
            turn=given.turn,
            positions_BT=given.positions_BT,
            cache=cache,
        )
        read = checkpoint_name(read, "attention_output")
        x_BTD = constrain(x_BTD + dropout(read, rate=config.dropout_rate), "batch", None, None)
        normed = RMSNorm(name="feedforward_norm")(x_BTD)
        thought, statistics = self._feedforward(normed, given, out_scale)
        thought = checkpoint_name(thought, "feedforward_output")
        x_BTD = constrain(x_BTD + dropout(thought, rate=config.dropout_rate), "batch", None, None)
        return x_BTD, BlockOutput(cache, statistics)

    @hk.transparent
    def _feedforward(
        self, x_BTD: jax.Array, given: BlockInput, out_scale: float
    ) -> tuple[jax.Array, ExpertStatistics | None]:
        config = self.config
        if not config.experts.num_experts:
            return SwiGLU(d_ff=config.d_ff, out_scale=out_scale)(x_BTD), None
        experts = SparseExperts(config.experts, d_ff=config.d_ff, out_scale=out_scale)
        return experts(x_BTD, weights_BT=given.weights_BT)


def remat(function: Any, policy: str) -> Any:
    """`function`, recomputed in the backward pass as `policy` says; see `AGIConfig.remat`."""
    if policy == "none":
        return function
    policies = {
        "full": jax.checkpoint_policies.nothing_saveable,
        "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        "named": jax.checkpoint_policies.save_only_these_names(
            "attention_output", "feedforward_output"
        ),
    }
    return hk.remat(function, policy=policies[policy])
