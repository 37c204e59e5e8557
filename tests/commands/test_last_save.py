"""The last save of a run that another process had stopped: watched, and not cut short by a signal.

The others are played: what they would say is put into this process's mouth.
"""

import faulthandler
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rtdlm import train
from rtdlm.checkpoint import CheckpointStore, newest_complete
from rtdlm.config.command_line import UNFINISHED
from rtdlm.parallel import Peers
from tests.commands.conftest import arguments

FIELDS = ("hosts.step_seconds=600", "monitoring.tensorboard=false")


@pytest.fixture
def stopped_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Process 1 got SIGTERM and says so."""
    monkeypatch.setattr(Peers, "said", lambda peers, name: {"1": "SIGTERM"})


@pytest.fixture
def acted() -> Iterator[list[int]]:
    """SIGTERMs that came to whoever was there before the run: they would have ended it."""
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    yield came
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("stopped_by_another")
def test_a_signal_of_its_own_does_not_end_a_process_that_saves(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, acted: list[int]
) -> None:
    write, out = CheckpointStore._write, tmp_path / "out"

    def interrupted(*call: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return write(*call)

    monkeypatch.setattr(CheckpointStore, "_write", interrupted)
    assert train.main(arguments(text, out, "--steps", "9", fields=FIELDS)) == UNFINISHED
    assert acted == [], "it would have died in its save"
    found = newest_complete(out / "checkpoints")
    assert found.snapshot is not None and found.snapshot.step == 1
    assert found.passed_over == {}


@pytest.mark.usefixtures("stopped_by_another")
def test_every_wait_for_the_disk_is_watched_to_the_last(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def telling(name: str) -> None:
        method = getattr(CheckpointStore, name)

        def called(*call: Any, **options: Any) -> Any:
            told.append(name)
            return method(*call, **options)

        monkeypatch.setattr(CheckpointStore, name, called)

    monkeypatch.setattr(faulthandler, "dump_traceback_later", lambda *_, **__: told.append("fed"))
    monkeypatch.setattr(faulthandler, "cancel_dump_traceback_later", lambda: told.append("left"))
    for name in ("_open", "newest_complete", "save", "wait", "close"):
        telling(name)
    command = arguments(text, tmp_path / "out", "--steps", "9", fields=FIELDS)
    assert train.main(command) == UNFINISHED
    assert told == [
        *("fed", "_open", "newest_complete", "fed"),
        "fed",  # the only step
        *("fed", "wait", "save", "wait", "fed", "wait", "fed"),
        "fed",  # behind the sample
        *("close", "wait", "left"),
    ]
