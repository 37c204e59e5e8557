"""What a side of the time-to-loss benchmark is, and the clock that all sides use.

A side is a function of (text, seed, target loss) that trains until its loss over the whole held-out
part first is at most the target, or to the end of its run where the target is None:

    def our_side(text: Path, *, seed: int, target: float | None) -> Timing: ...

It is named "module:function", runs in a process of its own on one core, and takes any further
options by keyword. `rtdlm.config.errors.UserError` is how it says that a text does not suit it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from benchmarks.child import Timer, Times


class Timing(NamedTuple):
    """One run. Training time leaves out compilation and held-out evaluation."""

    reached: bool
    """Whether the target was reached; True where there was none."""
    loss: float
    """Last loss over the whole held-out part [nats a character]."""
    steps: int
    cpu_seconds: float
    wall_seconds: float
    compile_cpu_seconds: float
    compile_wall_seconds: float
    parameters: int
    evaluation_wall_seconds: float = 0.0
    """Compilation of the evaluation included, so that it can be left out of the time from the
    shell prompt."""


class Side(Protocol):
    """See the module's text."""

    def __call__(self, text: Path, *, seed: int, target: float | None, **options: Any) -> Timing:
        """Trains and tells."""
        ...


class TrainingClock:
    """Sorts a run's time into training, compilation and evaluation.

    Time counts as training unless it passes inside `compiling()` or `evaluating()`.
    """

    def __init__(self) -> None:
        self._timer = Timer()
        self._aside = {"compile": Times(0.0, 0.0), "evaluation": Times(0.0, 0.0)}

    @contextmanager
    def compiling(self) -> Iterator[None]:
        """Around the first call of a compiled function."""
        with self._setting_aside("compile"):
            yield

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Around an evaluation of the held-out part."""
        with self._setting_aside("evaluation"):
            yield

    def timing(self, *, reached: bool, loss: float, steps: int, parameters: int) -> Timing:
        """What the clock says now."""
        total, compiled, judged = self._timer.read(), *self._aside.values()
        return Timing(
            reached=reached,
            loss=loss,
            steps=steps,
            cpu_seconds=total.cpu - compiled.cpu - judged.cpu,
            wall_seconds=total.wall - compiled.wall - judged.wall,
            compile_cpu_seconds=compiled.cpu,
            compile_wall_seconds=compiled.wall,
            parameters=parameters,
            evaluation_wall_seconds=judged.wall,
        )

    @contextmanager
    def _setting_aside(self, kind: str) -> Iterator[None]:
        timer = Timer()
        try:
            yield
        finally:
            wall, cpu = timer.read()
            self._aside[kind] = Times(self._aside[kind].wall + wall, self._aside[kind].cpu + cpu)
