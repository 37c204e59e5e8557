"""The float16 loss scale as a table; what the step does with it is in test_step."""

import jax.numpy as jnp
import pytest

from rtdlm.config import PrecisionConfig
from rtdlm.training.precision import LossScale, initial_loss_scale, next_loss_scale


def test_only_float16_needs_a_scale() -> None:
    assert initial_loss_scale(PrecisionConfig(compute="float32")) is None
    assert initial_loss_scale(PrecisionConfig(compute="bfloat16")) is None
    start = initial_loss_scale(PrecisionConfig(compute="float16"))
    assert start is not None and (float(start.scale), int(start.good_steps)) == (32768.0, 0)
    chosen = initial_loss_scale(PrecisionConfig(compute="float16", initial_loss_scale=8.0))
    assert chosen is not None and float(chosen.scale) == 8.0


def test_the_scale_doubles_after_a_period_and_halves_at_once() -> None:
    config = PrecisionConfig(compute="float16", loss_scale_period=3)
    now, seen = LossScale(jnp.float32(8.0), jnp.int32(0)), []
    for finite in (1, 1, 1, 1, 1, 0, 1, 1, 1, 0, 0, 1):
        now = next_loss_scale(config, now, jnp.asarray(bool(finite)))
        seen.append((float(now.scale), int(now.good_steps)))
    assert seen == [
        (8, 1), (8, 2), (16, 0), (16, 1), (16, 2), (8, 0), (8, 1), (8, 2), (16, 0), (8, 0), (4, 0),
        (4, 1),
    ]  # fmt: skip


@pytest.mark.parametrize(("start", "finite", "end"), [(1.0, False, 1.0), (2.0**24, True, 2.0**24)])
def test_the_scale_stays_between_one_and_two_to_the_24(
    start: float, finite: bool, end: float
) -> None:
    config = PrecisionConfig(compute="float16", loss_scale_period=1)
    now = LossScale(jnp.float32(start), jnp.int32(0))
    assert float(next_loss_scale(config, now, jnp.asarray(finite)).scale) == end
