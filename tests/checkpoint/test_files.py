import hashlib
from pathlib import Path

import pytest

from rtdlm.checkpoint.files import (
    CHUNK_BYTES,
    FileRecord,
    HashingFile,
    hash_file,
    replace_file,
    write_file,
)


@pytest.mark.parametrize("length", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, 2 * CHUNK_BYTES + 3])
def test_the_record_describes_what_is_on_the_disk(tmp_path: Path, length: int) -> None:
    data = (bytes(range(251)) * (length // 251 + 1))[:length]
    record = write_file(tmp_path / "file", data)
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


def test_replacing_leaves_the_old_bytes_when_the_disk_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_file(tmp_path / "best", b"old")

    def refuse(file: HashingFile, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(HashingFile, "write", refuse)
    with pytest.raises(OSError, match="No space left"):
        replace_file(tmp_path / "best", b"new")
    monkeypatch.undo()
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("best", b"old")]
    replace_file(tmp_path / "best", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("best", b"new")]
