import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from rtdlm.checkpoint.lock import RunLock
from rtdlm.config.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import pathlib, sys, time
from rtdlm.checkpoint.lock import RunLock
lock = RunLock(pathlib.Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_writer_is_told_who_holds_the_directory(tmp_path: Path) -> None:
    lock = RunLock(tmp_path)
    with pytest.raises(UserError) as error:
        RunLock(tmp_path)
    assert str(error.value) == (
        f"{tmp_path} is being written by process {os.getpid()} on {socket.gethostname()}; "
        "wait until that run ends or choose another --out"
    )
    lock.release()
    RunLock(tmp_path).release()


def test_other_directories_are_free(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    locks = [RunLock(tmp_path), RunLock(tmp_path / "other")]
    for lock in locks:
        lock.release()


def test_a_killed_owner_leaves_no_lock(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"is being written by process {process.pid} on"):
            RunLock(tmp_path)
        process.send_signal(signal.SIGKILL)
    RunLock(tmp_path).release()
    assert (tmp_path / "run.lock").read_text().startswith(f"process {os.getpid()} on ")
