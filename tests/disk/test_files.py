import errno
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rtdlm.config.errors import StorageError, UserError
from rtdlm.disk import (
    FileRecord,
    HashingFile,
    hash_bytes,
    hash_file,
    make_directory,
    replace_file,
    require_room,
    write_file,
)
from rtdlm.disk.files import CHUNK_BYTES

ROOT = Path(__file__).resolve().parents[2]


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("write", [write_file, replace_file])
@pytest.mark.parametrize("length", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, 2 * CHUNK_BYTES + 3])
def test_the_record_describes_what_is_on_the_disk(
    tmp_path: Path, length: int, write: Callable[[Path, bytes], FileRecord]
) -> None:
    data = (bytes(range(251)) * (length // 251 + 1))[:length]
    record = write(tmp_path / "file", data)
    assert (tmp_path / "file").read_bytes() == data
    assert record == FileRecord(length, hashlib.sha256(data).hexdigest())
    assert hash_file(tmp_path / "file") == record.sha256


def test_writes_add_up(tmp_path: Path) -> None:
    with HashingFile(tmp_path / "file") as file:
        file.write(b"two ")
        file.write(memoryview(b"writes"))
    assert file.record == FileRecord(10, hashlib.sha256(b"two writes").hexdigest())


def test_a_file_is_never_written_over(tmp_path: Path) -> None:
    write_file(tmp_path / "file", b"first")
    with pytest.raises(FileExistsError):
        write_file(tmp_path / "file", b"second")
    assert (tmp_path / "file").read_bytes() == b"first"


@pytest.mark.parametrize(
    ("owner", "name"), [(HashingFile, "write"), (os, "fsync"), (Path, "replace")]
)
def test_a_refused_replacement_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: object, name: str
) -> None:
    replace_file(tmp_path / "best", b"old")
    monkeypatch.setattr(owner, name, full_disk)
    with pytest.raises(StorageError) as error:
        replace_file(tmp_path / "best", b"new and longer")
    monkeypatch.undo()
    assert str(error.value) == (
        f"{tmp_path}/best could not be written: No space left on device; make room or choose "
        "another directory; what was written before is intact"
    )
    assert content(tmp_path) == {"best": b"old"}
    replace_file(tmp_path / "best", b"new")
    assert content(tmp_path) == {"best": b"new"}


def test_an_interrupt_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_file(tmp_path / "best", b"old")

    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        replace_file(tmp_path / "best", b"new")
    assert content(tmp_path) == {"best": b"old"}


KILLED = """
import os, pathlib, signal, sys
from rtdlm.disk import replace_file
os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
replace_file(pathlib.Path(sys.argv[1]), b"new and longer")
"""


def test_what_a_kill_leaves_is_hidden_and_goes_with_the_next_write(tmp_path: Path) -> None:
    replace_file(tmp_path / "best", b"old")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "best")], cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL
    assert content(tmp_path) == {"best": b"old", ".best.writing": b"new and longer"}
    replace_file(tmp_path / "best", b"new")
    assert content(tmp_path) == {"best": b"new"}


def test_a_replacement_is_synced_before_it_is_named_and_its_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, int]] = []
    replace = Path.replace

    def synced(descriptor: int) -> None:
        calls.append(("sync", os.fstat(descriptor).st_ino))

    def renamed(path: Path, target: Path) -> Path:
        calls.append(("rename", path.stat().st_ino))
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    replace_file(tmp_path / "best", b"new")
    file, directory = (tmp_path / "best").stat().st_ino, tmp_path.stat().st_ino
    assert calls == [("sync", file), ("rename", file), ("sync", directory)]


def test_room_is_tried_and_nothing_left(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("kept")
    for name in ("old", "new"):
        require_room(tmp_path / name)
    assert [file.name for file in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old").read_text() == "kept"
    with pytest.raises(StorageError, match="Is a directory"):
        require_room(tmp_path)


def test_a_directory_is_made_once_with_its_parents(tmp_path: Path) -> None:
    for _ in range(2):
        make_directory(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


@pytest.mark.parametrize("below", ["", "below", "far/below"])
def test_a_file_is_no_directory(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError) as error:
        make_directory(tmp_path / "file" / below)
    assert str(error.value) == (
        f"{tmp_path}/file is not a directory; choose another place to write to"
    )


def test_a_directory_that_the_disk_refuses_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: full_disk())
    with pytest.raises(StorageError, match=r"/out could not be written: No space left on device; "):
        make_directory(tmp_path / "out")


def test_both_hashes_are_sha256(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert hash_bytes(b"abc") == hash_file(tmp_path / "x") == expected
