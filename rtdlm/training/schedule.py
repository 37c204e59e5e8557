"""Learning-rate schedules as functions of the step and of the run's progress.

    factor(t, p) = min(1, (t + 1) / warmup) * shape(p)

t counts optimizer steps from 0 and p in [0, 1) is the share of the budget that is spent, in steps
or in seconds, so that one definition serves every kind of budget. Shapes:

    constant       1
    cosine         f + (1 - f) (1 + cos(pi p)) / 2
    linear         1 - (1 - f) p
    wsd            1 until p = 1 - d, then linearly down to f       (arXiv 2404.06395)
    inverse_sqrt   sqrt(warmup / max(t + 1, warmup))                (arXiv 1706.03762, section 5.3)
"""

import jax
import jax.numpy as jnp

from rtdlm.config import OptimizerConfig


def learning_rate_factor(
    config: OptimizerConfig, step: jax.Array, progress: jax.Array
) -> jax.Array:
    """Share of the peak learning rate at int32 `step` and float32 `progress`; in [0, 1]."""
    done = step.astype(jnp.float32) + 1.0
    warmup = float(max(config.warmup_steps, 1))
    return jnp.minimum(1.0, done / warmup) * _shape(config, done, progress, warmup)


def _shape(
    config: OptimizerConfig, done: jax.Array, progress: jax.Array, warmup: float
) -> jax.Array:
    final = config.final_learning_rate
    final = (0.1 if config.schedule == "cosine" else 0.0) if final is None else final
    if config.schedule == "constant":
        return jnp.ones_like(done)
    if config.schedule == "cosine":
        return final + (1.0 - final) * 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
    if config.schedule == "linear":
        return 1.0 - (1.0 - final) * progress
    if config.schedule == "inverse_sqrt":
        return jnp.sqrt(warmup / jnp.maximum(done, warmup))
    assert config.schedule == "wsd"
    decay = 0.4 if config.decay_fraction is None else config.decay_fraction
    if decay == 0.0:
        return jnp.ones_like(done)
    into_decay = jnp.maximum(0.0, progress - (1.0 - decay)) / decay
    return 1.0 - (1.0 - final) * into_decay
