"""What a run tells while it runs: typed events, sent to every sink in order.

The training code emits and knows no terminal, file or dashboard; a sink is any callable that takes
an event and has `close`. An exception in a sink ends the run: nothing here catches it.
"""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Protocol, Self

Level = Literal["info", "warning", "error"]


@dataclass(frozen=True)
class RunStarted:
    """A session began: the first of a run, or one that resumes it."""

    time: float
    """Wall clock [seconds since 1970]."""
    command: str
    """The command line, ready to paste."""
    config: Mapping[str, Any]
    """What a reader of the report wants to know of the configuration: label -> JSON value."""
    parameters: Mapping[str, int]
    """Label -> number of parameters; "total" is one of the labels."""
    devices: str
    """Number and kind, as in "8 x TPU v5e"."""
    tokens_per_step: int
    """Tokens in one optimizer step, padding included [tokens]."""
    flops_per_token: float
    """Work of one training token, forward and backward [FLOP]."""
    peak_flops: float
    """Peak of all devices together [FLOP/s]."""
    peak_source: str
    """Where `peak_flops` comes from."""
    total_steps: int | None = None
    """Budget in steps; None when wall time is the budget [steps]."""
    max_seconds: float | None = None
    """Budget in wall time; None when steps are the budget [seconds]."""
    resumed_from: int | None = None
    """Step of the checkpoint that the session goes on from; None for a new run [steps]."""
    started_from: str | None = None
    """The model that the run started from, as in "runs/tiny at step 500"; None for none."""


@dataclass(frozen=True)
class StepFinished:
    """One optimizer step was done, and its metrics have reached the host."""

    step: int
    """Number of the step, from 1."""
    metrics: Mapping[str, float]
    """Such as loss, learning_rate, gradient_norm, tokens_per_second, mfu [fraction]."""
    seconds: float
    """Training time since the run began, over all sessions, without evaluation [seconds]."""
    tokens: int
    """Tokens trained on since the run began, over all sessions."""


@dataclass(frozen=True)
class EvalFinished:
    """The held-out set was evaluated after `step`."""

    step: int
    metrics: Mapping[str, float]
    """Such as loss, perplexity, top1_accuracy; "loss" decides which is best."""
    is_best: bool
    """The loss is the lowest so far."""


@dataclass(frozen=True)
class CheckpointSaved:
    """A checkpoint was committed."""

    step: int
    path: str
    best: bool


@dataclass(frozen=True)
class Notice:
    """Something a person should know, as one sentence."""

    step: int
    level: Level
    message: str


@dataclass(frozen=True)
class RunFinished:
    """A session ended in good order."""

    step: int
    reason: str
    """Why, as in "all 300 steps done"."""
    summary: Mapping[str, float] = field(default_factory=dict)
    """Further results for the report: label -> number."""
    sample: str | None = None
    """Text that the trained model wrote."""


Event = RunStarted | StepFinished | EvalFinished | CheckpointSaved | Notice | RunFinished


class Sink(Protocol):
    """Takes every event of a run; `close` is called once, also after a failure."""

    def __call__(self, event: Event, /) -> None: ...

    def close(self) -> None: ...


class EventStream:
    """Sends each event to every sink, in the order given. Closes them all at the end."""

    def __init__(self, sinks: Iterable[Sink]) -> None:
        self._sinks = tuple(sinks)

    def emit(self, event: Event) -> None:
        """Hands `event` to the sinks; the first exception goes to the caller."""
        for sink in self._sinks:
            sink(event)

    def close(self) -> None:
        """Closes every sink, even if closing one of them raises; the exception then goes on."""
        with ExitStack() as stack:
            for sink in reversed(self._sinks):
                stack.callback(sink.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
