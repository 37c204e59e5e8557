"""What may change while a run goes on without compiling again.

Knobs are float32 leaves of one pytree that the step receives beside its state and batch. Whoever
turns one (a schedule, a person, the orchestrator) only passes another value.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rtdlm.config import AGIConfig


class Knobs(NamedTuple):
    """Float32 scalars; see the config fields of the same names for units and ranges."""

    learning_rate_scale: jax.Array
    """Multiplies the scheduled learning rate; 1 unless somebody turns it."""
    weight_decay: jax.Array
    clip_norm: jax.Array
    z_loss: jax.Array
    label_smoothing: jax.Array
    balance_weight: jax.Array
    router_z_weight: jax.Array
    predictor_weight: jax.Array
    bias_rate: jax.Array
    hop_price: jax.Array
    ponder_weight: jax.Array

    @classmethod
    def from_config(cls, config: AGIConfig) -> "Knobs":
        """The values that a run starts with."""
        experts, predictor = config.experts, config.depths.predictor_weight
        return cls(
            *(
                jnp.asarray(value, jnp.float32)
                for value in (
                    1.0,
                    config.optimizer.weight_decay,
                    config.optimizer.clip_norm,
                    config.loss.z_loss,
                    config.loss.label_smoothing,
                    experts.balance,
                    0.001 if experts.z_weight is None else experts.z_weight,
                    0.1 if predictor is None else predictor,
                    experts.bias_rate or 0.0,
                    config.graph.hop_price or 0.0,
                    config.controller.ponder,
                )
            )
        )
