"""Every schedule as a literal table: ten steps, four of warm-up."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.config import OptimizerConfig
from rtdlm.training.schedule import learning_rate_factor

WARM = [0.25, 0.5, 0.75]
TABLES: dict[str, tuple[dict[str, Any], list[float]]] = {
    "constant": ({}, [*WARM, 1, 1, 1, 1, 1, 1, 1]),
    "wsd": ({}, [*WARM, 1, 1, 1, 1, 0.75, 0.5, 0.25]),
    "wsd to a fifth": (
        {"decay_fraction": 0.5, "final_learning_rate": 0.2},
        [*WARM, 1, 1, 1, 0.84, 0.68, 0.52, 0.36],
    ),
    "wsd that never decays": ({"decay_fraction": 0.0}, [*WARM, 1, 1, 1, 1, 1, 1, 1]),
    "wsd that only decays": (
        {"decay_fraction": 1.0},
        [0.25, 0.45, 0.6, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1],
    ),
    "linear": ({}, [0.25, 0.45, 0.6, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]),
    "linear to a half": (
        {"final_learning_rate": 0.5},
        [0.25, 0.475, 0.675, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55],
    ),
    # 0.1 + 0.9 cos^2(pi p / 2)
    "cosine": (
        {},
        [0.25, 0.48899, 0.68554, 0.81450, 0.68906, 0.55, 0.41094, 0.28550, 0.18594, 0.12202],
    ),
    "cosine to nothing": (
        {"final_learning_rate": 0.0},
        [0.25, 0.48776, 0.67838, 0.79389, 0.65451, 0.5, 0.34549, 0.20611, 0.09549, 0.02447],
    ),
    # sqrt(4 / (t + 1))
    "inverse_sqrt": (
        {},
        [*WARM, 1, 0.89443, 0.81650, 0.75593, 0.70711, 0.66667, 0.63246],
    ),
}  # fmt: skip


def factors(config: OptimizerConfig, steps: np.ndarray, progress: np.ndarray) -> np.ndarray:
    return np.asarray(
        learning_rate_factor(
            config, jnp.asarray(steps, jnp.int32), jnp.asarray(progress, jnp.float32)
        )
    )


@pytest.mark.parametrize("case", TABLES)
def test_a_schedule_is_this_table(case: str) -> None:
    options, expected = TABLES[case]
    config = OptimizerConfig(schedule=case.split()[0], warmup_steps=4, **options)  # type: ignore[arg-type]
    steps = np.arange(10)
    np.testing.assert_allclose(factors(config, steps, steps / 10), expected, atol=1e-5)


@pytest.mark.parametrize("schedule", ["constant", "wsd", "linear", "cosine", "inverse_sqrt"])
def test_without_warm_up_the_first_step_has_the_peak(schedule: Any) -> None:
    config = OptimizerConfig(schedule=schedule, warmup_steps=0)
    assert factors(config, np.array([0]), np.array([0.0])) == 1.0


@pytest.mark.parametrize("schedule", ["wsd", "linear", "cosine"])
def test_under_a_budget_of_seconds_the_clock_decides(schedule: Any) -> None:
    """Seven tenths of the time spent are the same place, whatever the step."""
    config = OptimizerConfig(schedule=schedule, warmup_steps=4)
    late = factors(config, np.array([7, 7000, 1_000_000]), np.full(3, 0.7))
    np.testing.assert_array_equal(late, late[0])
    assert late[0] == pytest.approx(TABLES[schedule][1][7], abs=1e-5)


def test_inverse_sqrt_and_warm_up_follow_the_step_even_then() -> None:
    config = OptimizerConfig(schedule="inverse_sqrt", warmup_steps=4)
    np.testing.assert_allclose(
        factors(config, np.array([1, 15, 399]), np.full(3, 0.7)), [0.5, 0.5, 0.1], rtol=1e-6
    )
