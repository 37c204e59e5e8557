"""What a terminal shows of a run: the latest numbers, gathered from its events."""

from rtdlm.monitoring.events import EvalFinished, Event, RunFinished, RunStarted, StepFinished
from rtdlm.monitoring.meter import TimeLeft
from rtdlm.monitoring.wording import clock, label, percent, short


class RunView:
    """The state of a run in words. Feed it every event with the time at which it came."""

    def __init__(self) -> None:
        self.step = 0
        self.done = 0.0
        """Share of the budget that is used [fraction]."""
        self._total_steps: int | None = None
        self._max_seconds: float | None = None
        self._metrics: dict[str, float] = {}
        self._held_out: float | None = None
        self._time_left = TimeLeft()
        self._seconds_left: float | None = None

    def update(self, event: Event, *, now: float) -> None:
        """Takes in one event. `now` is any even clock [seconds]."""
        if isinstance(event, RunStarted):
            self._total_steps, self._max_seconds = event.total_steps, event.max_seconds
            self.step = event.resumed_from or 0
        elif isinstance(event, StepFinished):
            self.step, self._metrics = event.step, dict(event.metrics)
            self.done = self._share(event)
            self._seconds_left = self._time_left.update(now=now, done=self.done)
        elif isinstance(event, EvalFinished):
            self._held_out = event.metrics.get("loss")

    @property
    def position(self) -> str:
        """Where the run is: "120/300", or "120" when wall time is the budget."""
        return f"{self.step}/{self._total_steps}" if self._total_steps else str(self.step)

    @property
    def time_left(self) -> str:
        """Such as "0:42 left"; empty while unknown and when the budget is used up."""
        return f"{clock(self._seconds_left)} left" if self._seconds_left else ""

    def status(self) -> list[str]:
        """The latest numbers, most important first."""
        metrics, parts = self._metrics, []
        if "loss" in metrics:
            parts.append(f"loss {metrics['loss']:.3f}")
        if self._held_out is not None:
            parts.append(f"held-out {self._held_out:.3f}")
        if "tokens_per_second" in metrics:
            parts.append(f"{short(metrics['tokens_per_second'])} tokens/s")
        if "mfu" in metrics:
            parts.append(f"MFU {percent(metrics['mfu'])}")
        return parts

    def _share(self, event: StepFinished) -> float:
        if self._total_steps:
            return event.step / self._total_steps
        return event.seconds / self._max_seconds if self._max_seconds else 0.0


def opening(event: RunStarted) -> str:
    """What is about to run, in one line."""
    size = f"{short(event.parameters['total'])} parameters on {event.devices}"
    batch = f"{event.tokens_per_step:,} tokens"
    if event.total_steps is not None:
        budget = f"{event.total_steps:,} steps of {batch}"
    else:
        budget = f"{clock(event.max_seconds or 0.0)} in steps of {batch}"
    origin = "" if event.started_from is None else f", started from {event.started_from}"
    resumed = "" if event.resumed_from is None else f", resumed from step {event.resumed_from}"
    return f"{size}, {budget}{origin}{resumed}"


def closing(event: RunFinished) -> str:
    """How the run ended, in one line."""
    results = [f"{label(name)} {value:,.4g}" for name, value in event.summary.items()]
    return "; ".join([f"step {event.step}: {event.reason}", *results])
