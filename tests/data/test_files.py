import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rtdlm.config.errors import StorageError, UserError
from rtdlm.data.files import locked, make_directory, sha256, sha256_of_file, write_atomic


def test_a_refused_write_leaves_the_old_file(tmp_path, monkeypatch) -> None:
    path = tmp_path / "a.bin"
    write_atomic(path, b"old")

    def full_disk(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(StorageError, match=r"could not write .*a\.bin: No space left on device; "):
        write_atomic(path, b"new and longer")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a.bin", b"old")]


def test_one_process_holds_a_directory(tmp_path) -> None:
    script = (
        "import sys, pathlib\n"
        "from rtdlm.data.files import locked\n"
        "with locked(pathlib.Path(sys.argv[1])):\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with (
            pytest.raises(UserError, match=r"another process is writing to .*; wait for it or"),
            locked(tmp_path),
        ):
            pass
        holder.kill()
    with locked(tmp_path):  # The system freed it.
        pass


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(StorageError, match=r"could not write .*\.lock: No locks"), locked(tmp_path):
        pass


def test_a_file_is_no_directory(tmp_path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="is not a directory; choose another place"):
            make_directory(path)


def test_both_hashes_are_sha256(tmp_path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256(b"abc") == sha256_of_file(tmp_path / "x") == expected
