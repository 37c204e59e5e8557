"""The whole of a run as its events, and its metrics as arrays."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

import numpy as np

from rtdlm.monitoring.events import (
    CheckpointSaved,
    EvalFinished,
    Event,
    Notice,
    RunFinished,
    RunStarted,
    StepFinished,
)
from rtdlm.monitoring.jsonl import read_events

T = TypeVar("T", bound=Event)


@dataclass(frozen=True)
class History:
    """The events of a run by kind, each in order of steps, over all sessions."""

    starts: tuple[RunStarted, ...]
    steps: tuple[StepFinished, ...]
    evals: tuple[EvalFinished, ...]
    checkpoints: tuple[CheckpointSaved, ...]
    notices: tuple[Notice, ...]
    finishes: tuple[RunFinished, ...]

    @classmethod
    def of(cls, events: Iterable[Event]) -> Self:
        """Sorts events by kind."""
        events = tuple(events)
        return cls(
            starts=_only(RunStarted, events),
            steps=_only(StepFinished, events),
            evals=_only(EvalFinished, events),
            checkpoints=_only(CheckpointSaved, events),
            notices=_only(Notice, events),
            finishes=_only(RunFinished, events),
        )

    @classmethod
    def read(cls, path: Path) -> Self:
        """The history in a metrics.jsonl; see `read_events` for errors."""
        return cls.of(read_events(path))

    @property
    def best_eval(self) -> EvalFinished | None:
        """The last evaluation that was the best when it was made."""
        return next((item for item in reversed(self.evals) if item.is_best), None)


def column(
    events: Sequence[StepFinished] | Sequence[EvalFinished], name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Steps [N] int64 and values [N] float64 of one metric, where it was recorded."""
    rows = [(event.step, event.metrics[name]) for event in events if name in event.metrics]
    return np.array([s for s, _ in rows], np.int64), np.array([v for _, v in rows], np.float64)


def throughput(steps: Sequence[StepFinished]) -> tuple[np.ndarray, np.ndarray]:
    """Steps [N-1] and tokens a second [N-1] between each recorded step and the one before it."""
    seconds = np.array([event.seconds for event in steps], np.float64)
    tokens = np.array([event.tokens for event in steps], np.float64)
    numbers = np.array([event.step for event in steps], np.int64)
    return numbers[1:], np.diff(tokens) / np.diff(seconds)


def _only(kind: type[T], events: Iterable[Event]) -> tuple[T, ...]:
    return tuple(event for event in events if isinstance(event, kind))
