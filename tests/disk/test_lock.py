import errno
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from rtdlm.config.errors import StorageError, UserError
from rtdlm.disk import LOCK_FILE, DirectoryLock

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import pathlib, sys, time
from rtdlm.disk import DirectoryLock
lock = DirectoryLock(pathlib.Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_writer_is_told_who_holds_the_directory(tmp_path: Path) -> None:
    lock = DirectoryLock(tmp_path)
    with pytest.raises(UserError) as error:
        DirectoryLock(tmp_path)
    assert str(error.value) == (
        f"{tmp_path} is being written by process {os.getpid()} on {socket.gethostname()}; "
        "wait until it ends or choose another directory"
    )
    lock.release()
    lock.release()
    DirectoryLock(tmp_path).release()


def test_the_lock_is_free_behind_its_body(tmp_path: Path) -> None:
    with pytest.raises(KeyError), DirectoryLock(tmp_path):
        with pytest.raises(UserError, match="is being written by"):
            DirectoryLock(tmp_path)
        raise KeyError
    with DirectoryLock(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [LOCK_FILE]


def test_other_directories_are_free(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    locks = [DirectoryLock(tmp_path), DirectoryLock(tmp_path / "other")]
    for lock in locks:
        lock.release()


def test_a_killed_owner_leaves_no_lock(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"is being written by process {process.pid} on"):
            DirectoryLock(tmp_path)
        process.send_signal(signal.SIGKILL)
    DirectoryLock(tmp_path).release()
    owner = f"process {os.getpid()} on {socket.gethostname()}\n"
    assert (tmp_path / LOCK_FILE).read_text() == owner


def test_a_file_system_without_locks_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(StorageError) as error:
        DirectoryLock(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}/.lock could not be written: No locks available; mend that or choose another "
        "directory; what was written before is intact"
    )
    monkeypatch.undo()
    DirectoryLock(tmp_path).release()


def test_a_directory_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"/away/\.lock could not be written: No such file"):
        DirectoryLock(tmp_path / "away")
