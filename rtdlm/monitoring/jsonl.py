"""metrics.jsonl: every event of a run as one line of JSON, across all its sessions.

    {"kind":"train","step":1,"seconds":0.5,"tokens":2048,"loss":9.01,"learning_rate":4e-05}
    {"kind":"eval","step":100,"is_best":true,"loss":5.25}

Kinds are start, train, eval, checkpoint, notice and finish. Numbers are written with the fewest
digits that read back to the same float64. JSON has no signs for what is not finite, so these are
the strings "NaN", "Infinity" and "-Infinity", which `float` understands. Each line is handed to the
operating system when it is written, so that a kill loses at most the line under way.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, TextIO

from rtdlm.config.errors import UserError
from rtdlm.disk import make_directory, replace_file, writing
from rtdlm.monitoring.events import (
    CheckpointSaved,
    EvalFinished,
    Event,
    Notice,
    RunFinished,
    RunStarted,
    StepFinished,
)

FILE_NAME = "metrics.jsonl"

KINDS: dict[str, type[Event]] = {
    "start": RunStarted,
    "train": StepFinished,
    "eval": EvalFinished,
    "checkpoint": CheckpointSaved,
    "notice": Notice,
    "finish": RunFinished,
}
_NAMES = {event: kind for kind, event in KINDS.items()}


def encode(event: Event) -> str:
    """One line of JSON, without its end. The metrics of a step stand beside its other fields.

    Raises:
        ValueError: a metric has the name of a field.
    """
    values: dict[str, Any] = {item.name: getattr(event, item.name) for item in fields(event)}
    metrics = dict(values.pop("metrics", {}))
    line = {"kind": _NAMES[type(event)]} | values
    if clash := metrics.keys() & {*line, "metrics"}:
        raise ValueError(f"a metric cannot be named {clash.pop()!r}: the line has such a field")
    return json.dumps(plain_json(line | metrics), separators=(",", ":"), allow_nan=False)


def decode(line: str) -> Event:
    """The event in one line.

    Raises:
        ValueError: the line is not one that `encode` writes.
    """
    values = json.loads(line)
    kind = KINDS[values.pop("kind")]
    names = {item.name for item in fields(kind)}
    if "metrics" in names:
        metrics = {name: float(value) for name, value in values.items() if name not in names}
        values = {name: value for name, value in values.items() if name in names}
        values["metrics"] = metrics
    if "summary" in names:
        values["summary"] = {name: float(value) for name, value in values["summary"].items()}
    return kind(**values)


def read_events(path: Path) -> Iterator[Event]:
    """Every event in the file; a last line without an end was cut short and does not count.

    Raises:
        UserError: another line is damaged.
    """
    for _, event in _read(path):
        yield event


def truncate_after(path: Path, step: int) -> None:
    """Drops the lines of steps after `step`, and a last line that was cut short; atomic.

    The start of a session counts as the step that it resumed from.

    Raises:
        UserError: a line is damaged.
        StorageError: the disk refused; the file is as it was.
    """
    kept = [line for line, event in _read(path) if _step(event) <= step]
    replace_file(path, "".join(kept).encode())


class JsonlSink:
    """Appends events to `path`; on resume, first drops what the run will do again.

    Args:
        path: the file. A new run begins it anew.
        every: steps between train lines; the first step always has one [steps].
    """

    def __init__(self, path: Path, *, every: int = 1) -> None:
        self._path, self._every = path, every
        self._file: TextIO | None = None

    def __call__(self, event: Event) -> None:
        """Writes one line. Raises StorageError when the disk refuses."""
        if isinstance(event, RunStarted):
            self._open(event.resumed_from)
        if isinstance(event, StepFinished) and event.step > 1 and event.step % self._every:
            return
        assert self._file is not None, "the first event of a session is RunStarted"
        with writing(self._path):
            self._file.write(f"{encode(event)}\n")
            self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            with writing(self._path):
                self._file.close()

    def _open(self, resumed_from: int | None) -> None:
        self.close()
        if resumed_from is not None and self._path.exists():
            truncate_after(self._path, resumed_from)
        make_directory(self._path.parent)
        with writing(self._path):
            self._file = self._path.open("w" if resumed_from is None else "a", encoding="utf-8")


def _read(path: Path) -> Iterator[tuple[str, Event]]:
    """Every whole line with its end, and the event in it."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith("\n"):
                return
            try:
                yield line, decode(line)
            except (ValueError, KeyError, TypeError, AttributeError):
                raise UserError(
                    f"line {number} of {path} is not a line of metrics ({line[:40].rstrip()!r}); "
                    "delete that line and try again"
                ) from None


def _step(event: Event) -> int:
    return event.resumed_from or 0 if isinstance(event, RunStarted) else event.step


def plain_json(value: Any) -> Any:
    """`value` with the floats that JSON lacks as strings, which `float` reads back."""
    if isinstance(value, dict):
        return {key: plain_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
