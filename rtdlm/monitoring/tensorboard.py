"""TensorBoard: train/* and eval/* scalars in event files."""

import socket
import time
from collections.abc import Mapping
from pathlib import Path

from rtdlm.disk import make_directory, writing
from rtdlm.monitoring.events import EvalFinished, Event, RunStarted, StepFinished
from rtdlm.monitoring.records import EventFile

FLUSH_SECONDS = 10.0


class TensorBoardSink:
    """Adds an event file for this session to `directory`.

    A resumed session hides the points of steps that it does again (TensorBoard's purge step).
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file: EventFile | None = None
        self._flushed = 0.0

    def __call__(self, event: Event) -> None:
        """Writes scalars. Raises StorageError when the disk refuses."""
        with writing(self._directory):
            if isinstance(event, RunStarted):
                self._open(purge_step=(event.resumed_from or 0) + 1)
            elif isinstance(event, StepFinished):
                self._write("train", event.step, event.metrics)
            elif isinstance(event, EvalFinished):
                self._write("eval", event.step, event.metrics)

    def close(self) -> None:
        """Brings what is left to the disk and closes the file."""
        if self._file is not None:
            with writing(self._directory):
                self._file.close()

    def _open(self, *, purge_step: int) -> None:
        make_directory(self._directory)
        now = time.time()
        # TensorBoard sorts by the seconds in the name; two sessions may start within one.
        name = f"events.out.tfevents.{now:.0f}.{socket.gethostname()}.{time.time_ns()}"
        self._file = EventFile(self._directory / name, time=now)
        self._file.write_start(time=now, step=purge_step)

    def _write(self, group: str, step: int, metrics: Mapping[str, float]) -> None:
        assert self._file is not None, "a run starts before it steps"
        scalars = {f"{group}/{name}": value for name, value in metrics.items()}
        self._file.write_scalars(scalars, time=time.time(), step=step)
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._file.flush()
            self._flushed = time.monotonic()
