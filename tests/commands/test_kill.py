"""kill -9 at twenty random moments, resuming each time, changes not one bit of the run."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from tests.commands import forked
from tests.commands.conftest import arguments
from tests.commands.test_train import losses, parameters, same

STEPS, KILLS = 120, 20
FIELDS = (
    "checkpoint.every_steps=2",
    "evaluation.every_steps=20",
    "monitoring.tensorboard=false",
    "batch_size=2",
    "short_conv=0",
    "value_residual=false",
)


def command(text: Path, out: Path) -> list[str]:
    return arguments(text, out, "--steps", str(STEPS), "--resume", fields=FIELDS)


def start(text: Path, out: Path) -> subprocess.Popen[bytes]:
    with (out.parent / "log.txt").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "rtdlm.train", *command(text, out)], stdout=log, stderr=log
        )


def last_step(out: Path) -> int:
    """The newest step in the log; a line that is being written does not count."""
    path = out / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    # Not the whole log, which is asked for many times a second.
    return max((json.loads(line).get("step") or 0 for line in lines[-9:]), default=0)


def kill_after(process: BaseProcess, out: Path, *, step: int, delay: float) -> bool:
    """Kills the process a moment after it logged `step`; False if it had ended by itself."""
    while process.is_alive():
        if last_step(out) >= step:
            time.sleep(delay)
            if process.is_alive():
                assert process.pid is not None
                os.kill(process.pid, signal.SIGKILL)
                process.join()
                return True
        time.sleep(0.005)
    assert process.exitcode == 0
    return False


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_twenty_kills_change_nothing(text: Path, tmp_path: Path) -> None:
    whole, killed, log = tmp_path / "whole", tmp_path / "killed", tmp_path / "log.txt"
    assert start(text, whole).wait() == 0
    moments = random.Random(0)
    resumed_from = []
    for kill in range(KILLS):
        process = forked.start(command(text, killed), log)
        # Far enough that all kills fit, and anywhere between two steps, in a save or in a log line.
        target = STEPS * (kill + 1) // (KILLS + 6)
        assert kill_after(process, killed, step=target, delay=moments.uniform(0, 0.03)), kill
        resumed_from.append(last_step(killed))
    assert start(text, killed).wait() == 0, log.read_text()
    assert len(set(resumed_from)) > KILLS // 2  # the kills hit many places
    assert losses(killed) == losses(whole)
    assert [step for step, _ in losses(killed)] == list(range(1, STEPS + 1))
    assert same(parameters(killed, STEPS), parameters(whole, STEPS))


def test_sigterm_finishes_the_step_saves_and_says_how_to_go_on(text: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(text, out)
    while last_step(out) < 3 and process.poll() is None:
        time.sleep(0.01)
    process.terminate()
    assert process.wait() == 75
    stopped = last_step(out)
    assert (out / "checkpoints" / f"step_{stopped:08d}" / "COMMITTED").exists()
    assert "stopped by SIGTERM; go on with --resume" in (tmp_path / "log.txt").read_text()
    assert start(text, out).wait() == 0
    assert [step for step, _ in losses(out)] == list(range(1, STEPS + 1))
