"""Progress of `prepare`: a bar on a terminal, a line a stage in a log, nothing when all is done."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from rtdlm.data.prepare import PrepareProgress

STAGES = {
    "read": "reading text",
    "tokenizer": "training the tokenizer",
    "encode": "writing tokens",
}


class PrepareBar:
    """Shows each `PrepareProgress` it is called with; appears with the first one."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._bars = Progress(
            TextColumn("{task.description:22}"),
            BarColumn(),
            TextColumn("{task.fields[amount]}"),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, progress: PrepareProgress) -> None:
        """Shows how far the stage is."""
        stage = STAGES[progress.stage]
        if progress.stage not in self._tasks:
            if not self._console.is_terminal:
                self._console.print(f"{stage}, {progress.total / 1e6:,.1f} MB")
            elif not self._tasks:
                self._bars.start()
            self._tasks[progress.stage] = self._bars.add_task(stage, amount="")
        amount = f"{progress.done / 1e6:,.1f} of {progress.total / 1e6:,.1f} MB"
        if progress.tokens:
            amount += f", {progress.tokens / 1e6:,.2f}M tokens"
        self._bars.update(
            self._tasks[progress.stage],
            completed=progress.done,
            total=progress.total,
            amount=amount,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bars.stop()
