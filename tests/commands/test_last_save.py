"""The last save of a run: watched, and not cut short by a signal where another had stopped the run.

The others are played: what they would say is put into this process's mouth.
"""

import faulthandler
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rtdlm import train
from rtdlm.checkpoint import CheckpointStore, newest_complete
from rtdlm.checkpoint.reading import step_name
from rtdlm.config.command_line import UNFINISHED
from rtdlm.parallel import Peers
from tests.commands import forked
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


def saved_step(out: Path) -> int:
    found = newest_complete(out / "checkpoints")
    assert found.snapshot is not None
    return found.snapshot.step


def test_a_disk_that_hangs_in_the_last_save_ends_the_run_and_costs_no_earlier_one(
    text: Path, tmp_path: Path
) -> None:
    """A real hang in a process of its own: the watchdog ends it and says where it stood."""
    seconds, out, log = 15, tmp_path / "out", tmp_path / "log.txt"
    fields = (f"hosts.step_seconds={seconds}", *FIELDS[1:], "checkpoint.every_steps=2")
    command = arguments(text, out, "--steps", "3", "--resume", fields=fields)
    process = forked.start(command, log, hangs=step_name(3))
    while process.is_alive() and not any(out.glob(f"checkpoints/*{step_name(3)}*")):
        time.sleep(0.05)
    began = time.monotonic()
    process.join(2 * seconds)
    assert process.exitcode == 1, log.read_text()
    assert time.monotonic() - began < seconds + 5
    assert "Timeout" in log.read_text() and "in fsync" in log.read_text()
    assert saved_step(out) == 2
    again = forked.start(command, log)
    again.join()
    assert again.exitcode == 0, log.read_text()
    assert saved_step(out) == 3
