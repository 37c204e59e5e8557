"""TensorBoard: train/* and eval/* scalars in event files.

Written with tensorboardX's record writer but without its `SummaryWriter`, whose thread would die
quietly on a full disk and leave the run waiting for it.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rtdlm.disk import make_directory, writing
from rtdlm.monitoring.events import EvalFinished, Event, RunStarted, StepFinished

FLUSH_SECONDS = 10.0


class TensorBoardSink:
    """Adds an event file for this session to `directory`.

    A resumed session hides the points of steps that it does again (TensorBoard's purge step).
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._writer: Any = None
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
        if self._writer is not None:
            with writing(self._directory):
                self._writer.close()

    def _open(self, *, purge_step: int) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event as Record
        from tensorboardX.proto.event_pb2 import SessionLog

        make_directory(self._directory)
        # The name has the time in whole seconds; two sessions may start within one.
        self._writer = EventsWriter(str(self._directory / "events"), f".{time.time_ns()}")
        start = SessionLog(status=SessionLog.START)
        self._writer.write_event(Record(wall_time=time.time(), step=purge_step, session_log=start))

    def _write(self, group: str, step: int, metrics: Mapping[str, float]) -> None:
        from tensorboardX.proto.event_pb2 import Event as Record
        from tensorboardX.proto.summary_pb2 import Summary

        values = [
            Summary.Value(tag=f"{group}/{name}", simple_value=value)
            for name, value in metrics.items()
        ]
        record = Record(wall_time=time.time(), step=step, summary=Summary(value=values))
        self._writer.write_event(record)
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._writer.flush()
            self._flushed = time.monotonic()
