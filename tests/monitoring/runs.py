"""A small run as events, whose every number is simple enough to check by hand."""

from typing import Any

from rtdlm.monitoring import (
    CheckpointSaved,
    EvalFinished,
    Event,
    Notice,
    RunFinished,
    RunStarted,
    StepFinished,
)

COMMAND = "python -m rtdlm.train --preset tiny --text shakespeare.txt --out runs/tiny"


def started(**changes: Any) -> RunStarted:
    """The start of a run of four steps."""
    fields: dict[str, Any] = {
        "time": 1_800_000_000.5,
        "command": COMMAND,
        "config": {"preset": "tiny", "optimizer": "muon", "batch": {"rows": 8, "tokens": 2048}},
        "parameters": {"total": 10_236_160, "non_embedding": 6_041_856},
        "devices": "2 x cpu",
        "tokens_per_step": 2048,
        "flops_per_token": 60e6,
        "peak_flops": 120e9,
        "peak_source": "measured",
        "total_steps": 4,
    }
    return RunStarted(**fields | changes)


def step(number: int, **metrics: float) -> StepFinished:
    """A step after which 2 seconds and 2,048 tokens more have gone by."""
    metrics = {"loss": 9.0 - number, "learning_rate": 0.001 * number} | metrics
    return StepFinished(number, metrics, seconds=2.0 * number, tokens=2048 * number)


def whole_run() -> list[Event]:
    """A run that was resumed after step 2 and improved until its third step."""
    return [
        started(),
        step(1),
        step(2),
        EvalFinished(2, {"loss": 7.25, "top1_accuracy": 0.125}, is_best=True),
        CheckpointSaved(2, "runs/tiny/checkpoints/step_00000002", best=True),
        started(time=1_800_000_100.0, resumed_from=2),
        Notice(3, "warning", "a gradient of step 3 was not finite | it was skipped"),
        step(3),
        EvalFinished(3, {"loss": 6.5, "top1_accuracy": 0.25}, is_best=True),
        CheckpointSaved(3, "runs/tiny/checkpoints/step_00000003", best=True),
        step(4),
        EvalFinished(4, {"loss": 6.75, "top1_accuracy": 0.1875}, is_best=False),
        CheckpointSaved(4, "runs/tiny/checkpoints/step_00000004", best=False),
        RunFinished(4, "all 4 steps done", {"wall_seconds": 12.5}, "To be\n```or```\nnot"),
    ]
