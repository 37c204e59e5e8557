"""Dynamic loss scaling for float16 (arXiv 1710.03740, section 3.2).

float16 loses gradients below 6e-8. The loss is multiplied by a scale before differentiating and
gradients are divided by it after; a step with a non-finite gradient is skipped and halves the
scale, and `period` finite ones in a row double it. Other formats need no scale.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rtdlm.config import PrecisionConfig

LARGEST_SCALE = 2.0**24


class LossScale(NamedTuple):
    """The present scale and the finite steps since it last changed."""

    scale: jax.Array
    good_steps: jax.Array


def initial_loss_scale(config: PrecisionConfig) -> LossScale | None:
    """The starting scale, or None where the format needs none."""
    if config.compute != "float16":
        return None
    start = 32768.0 if config.initial_loss_scale is None else config.initial_loss_scale
    return LossScale(jnp.asarray(start, jnp.float32), jnp.zeros((), jnp.int32))


def next_loss_scale(config: PrecisionConfig, now: LossScale, finite: jax.Array) -> LossScale:
    """The scale after a step whose gradients were all finite, or not."""
    period = 2000 if config.loss_scale_period is None else config.loss_scale_period
    grow = finite & (now.good_steps + 1 >= period)
    scale = jnp.where(finite, jnp.where(grow, now.scale * 2, now.scale), now.scale / 2)
    good_steps = jnp.where(finite & ~grow, now.good_steps + 1, 0)
    return LossScale(jnp.clip(scale, 1.0, LARGEST_SCALE), good_steps)
