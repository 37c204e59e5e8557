"""Budgets in steps, tokens, epochs and seconds, and how much of one is spent."""

import re
from typing import Any

import pytest

from rtdlm.config import AGIConfig, UserError
from rtdlm.training.budget import Budget

# 4 rows of 10 tokens a step; 1000 tokens an epoch.
ROWS: dict[str, Any] = {"batch_size": 4, "max_seq_len": 10}


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({"num_steps": 7}, Budget(7, None)),
        ({"num_tokens": 400}, Budget(10, None)),
        ({"num_tokens": 401}, Budget(11, None)),
        ({"num_tokens": 1}, Budget(1, None)),
        ({"num_epochs": 1.0}, Budget(25, None)),
        ({"num_epochs": 2.5}, Budget(63, None)),
        ({"num_epochs": 0.01}, Budget(1, None)),
        ({"max_seconds": 60.0}, Budget(None, 60.0)),
        ({}, Budget(25, None)),
    ],
    ids=str,
)
def test_a_budget_is_steps_rounded_up_or_seconds(chosen: dict[str, Any], expected: Budget) -> None:
    assert Budget.from_config(AGIConfig(**ROWS, **chosen), tokens_per_epoch=1000) == expected


@pytest.mark.parametrize(
    ("budget", "step", "seconds", "fraction"),
    [
        (Budget(10, None), 0, 99.0, 0.0),
        (Budget(10, None), 4, 0.0, 0.4),
        (Budget(10, None), 10, 0.0, 1.0),
        (Budget(10, None), 12, 0.0, 1.0),
        (Budget(None, 60.0), 1000, 0.0, 0.0),
        (Budget(None, 60.0), 0, 15.0, 0.25),
        (Budget(None, 60.0), 0, 61.0, 1.0),
    ],
    ids=str,
)
def test_the_spent_share_is_this_table(
    budget: Budget, step: int, seconds: float, fraction: float
) -> None:
    assert budget.fraction(step=step, seconds=seconds) == pytest.approx(fraction)
    assert budget.spent(step=step, seconds=seconds) == (fraction == 1.0)


@pytest.mark.parametrize(
    ("budget", "total"), [(Budget(10, None), "10 steps"), (Budget(None, 60.0), "60.0 seconds")]
)
def test_resuming_a_finished_run_is_one_sentence(budget: Budget, total: str) -> None:
    budget.require_left(step=9, seconds=59.0)
    expected = (
        f"the run already stands at step 10 and its budget of {total} is spent; raise --steps (or "
        "--epochs, --tokens, --seconds) to go on"
    )
    with pytest.raises(UserError, match=f"^{re.escape(expected)}$"):
        budget.require_left(step=10, seconds=60.0)
