"""Progress on a terminal: a bar that stays in place, or a plain line now and then in a log.

━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━╸━━━━━━━━━━━━━━━━━━━ 210/300 0:41 left
loss 2.713   held-out 2.846   12.3k tokens/s   MFU 31.2 %
"""

import time
from collections.abc import Callable, Iterable

from rich.console import Console, Group, RenderableType
from rich.constrain import Constrain
from rich.live import Live
from rich.progress_bar import ProgressBar as Bar
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from rtdlm.monitoring.events import (
    CheckpointSaved,
    EvalFinished,
    Event,
    Notice,
    RunFinished,
    RunStarted,
    Sink,
    StepFinished,
)
from rtdlm.monitoring.view import RunView, closing, opening

MAX_WIDTH = 100
GAP = "   "
STYLES = {"info": "", "warning": "yellow", "error": "bold red"}


def progress_sink(console: Console | None = None) -> Sink:
    """The sink that suits where the output goes: a terminal or a file."""
    console = console or Console()
    return ProgressBar(console) if console.is_terminal else ProgressLines(console)


class ProgressBar:
    """A bar with a status line under it, redrawn in place; notices scroll past above."""

    def __init__(self, console: Console, *, now: Callable[[], float] = time.monotonic) -> None:
        self._console, self._now = console, now
        self._view = RunView()
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=4)

    def __call__(self, event: Event) -> None:
        """Shows one event."""
        self._view.update(event, now=self._now())
        if isinstance(event, RunStarted):
            self._print(opening(event))
            self._live.start(refresh=True)
        elif isinstance(event, Notice):
            self._print(event.message, style=STYLES[event.level])
        elif isinstance(event, RunFinished):
            self._live.stop()
            self._print(closing(event))
            _print_sample(self._console, event.sample)

    def close(self) -> None:
        """Leaves the last state of the bar on the screen."""
        self._live.stop()

    def _print(self, text: str, *, style: str = "") -> None:
        self._console.print(Text(text), style=style)

    def _render(self) -> RenderableType:
        width = min(self._console.width, MAX_WIDTH)
        bar = Bar(1.0, self._view.done, complete_style="cyan", finished_style="green")
        line = Table.grid(expand=True, padding=(0, 1))
        line.add_column(ratio=1)
        line.add_row(bar, *filter(None, (self._view.position, self._view.time_left)))
        status = Text(fit(self._view.status(), width=width), style="dim", no_wrap=True)
        return Constrain(Group(line, status), MAX_WIDTH)


class ProgressLines:
    """A line every few seconds, and one for each evaluation, checkpoint and notice.

    Args:
        console: where to.
        every: least time between two lines on training steps [seconds].
        now: an even clock [seconds].
    """

    def __init__(
        self,
        console: Console,
        *,
        every: float = 10.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console, self._every, self._now = console, every, now
        self._view = RunView()
        self._printed = float("-inf")

    def __call__(self, event: Event) -> None:
        """Prints one event, if it is time to."""
        now = self._now()
        self._view.update(event, now=now)
        if isinstance(event, StepFinished):
            if now - self._printed >= self._every or self._view.done >= 1.0:
                self._printed = now
                self._print_at_step(*self._view.status(), self._view.time_left)
        elif isinstance(event, EvalFinished):
            loss = event.metrics.get("loss", float("nan"))
            self._print_at_step(f"held-out loss {loss:.4f}{' (best)' if event.is_best else ''}")
        elif isinstance(event, CheckpointSaved):
            self._print_at_step(f"saved {event.path}")
        elif isinstance(event, Notice):
            self._print(event.message)
        elif isinstance(event, RunStarted):
            self._print(opening(event))
        elif isinstance(event, RunFinished):
            self._print(closing(event))
            _print_sample(self._console, event.sample)

    def close(self) -> None:
        """Nothing is open."""

    def _print_at_step(self, *parts: str) -> None:
        self._print(GAP.join(filter(None, (f"step {self._view.position}", *parts))))

    def _print(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)


def fit(parts: Iterable[str], *, width: int) -> str:
    """As many of `parts`, from the first, as go into `width` columns."""
    line = ""
    for part in parts:
        longer = f"{line}{GAP}{part}" if line else part
        if len(longer) > width:
            break
        line = longer
    return line


def _print_sample(console: Console, sample: str | None) -> None:
    if sample is not None:
        console.print(Constrain(Rule("sample", align="left", style="dim"), MAX_WIDTH))
        console.print(Text(sample), soft_wrap=not console.is_terminal)
