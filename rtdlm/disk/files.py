"""Files that are on the disk when the call returns, or not there at all.

A write is durable after `fsync` of the file and of the directory that names it, and atomic when the
bytes go to a hidden sibling that is renamed over the name. The SHA-256 is taken on the way to the
disk, so that it describes what was meant and not what the disk made of it.

`HashingFile`, `write_file` and `sync_directory` are for filling a directory that appears as a
whole; they raise OSError as it comes, for the caller to tell what became of the directory.
"""

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from rtdlm.config.errors import UserError
from rtdlm.disk.refusal import writing

CHUNK_BYTES = 1 << 22


class FileRecord(NamedTuple):
    """What a manifest says of one file: its size [bytes] and its SHA-256 in hexadecimal."""

    bytes: int
    sha256: str


class HashingFile:
    """A new file that counts and hashes what is written, and reaches the disk on a clean exit.

    Raises:
        FileExistsError: the file is already there.
        OSError: the disk refused.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("xb")
        self._hash = hashlib.sha256()
        self._bytes = 0

    def write(self, data: bytes | memoryview) -> None:
        """Appends all of `data`."""
        view = memoryview(data)
        for start in range(0, len(view), CHUNK_BYTES):
            chunk = view[start : start + CHUNK_BYTES]
            self._file.write(chunk)
            self._hash.update(chunk)
        self._bytes += len(view)

    @property
    def record(self) -> FileRecord:
        """Size and hash of what was written so far."""
        return FileRecord(self._bytes, self._hash.hexdigest())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._file:
            if kind is None:
                self._file.flush()
                os.fsync(self._file.fileno())


def write_file(path: Path, data: bytes) -> FileRecord:
    """Creates `path` with `data`; see `HashingFile`."""
    with HashingFile(path) as file:
        file.write(data)
    return file.record


def replace_file(path: Path, data: bytes) -> FileRecord:
    """Writes `path`: a reader, or a crash at any moment, sees the old file or the new.

    Raises:
        StorageError: the disk refused; nothing but a whole file, mostly the old one, is left.
    """
    return replace_with(path, lambda temporary: write_file(temporary, data))


def replace_with(path: Path, write: Callable[[Path], FileRecord]) -> FileRecord:
    """`replace_file` for what is not bytes yet: `write` makes the file where it is told.

    Raises:
        StorageError: the disk refused; nothing but a whole file, mostly the old one, is left.
    """
    temporary = path.with_name(f".{path.name}.writing")
    with writing(path):
        temporary.unlink(missing_ok=True)  # left by a process that was killed here
        try:
            record = write(temporary)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)
    return record


def require_room(path: Path) -> None:
    """Tries to write beside `path`, before work is done for what is to stand there.

    Raises:
        StorageError: the disk refused, or a directory stands there.
    """
    with writing(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        temporary = path.with_name(f".{path.name}.writing")
        temporary.unlink(missing_ok=True)
        write_file(temporary, b"")
        temporary.unlink()


def sync_directory(path: Path) -> None:
    """Makes renames and deletions in `path` durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """Creates a directory and its parents, if they are not there.

    Raises:
        UserError: it, or one of its parents, is something else.
        StorageError: the disk refused.
    """
    with writing(path):
        try:
            path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            found = next(place for place in (path, *path.parents) if os.path.lexists(place))
            raise UserError(
                f"{found} is not a directory; choose another place to write to"
            ) from None


def hash_file(path: Path) -> str:
    """SHA-256 of a file in hexadecimal, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_bytes(data: bytes) -> str:
    """SHA-256 of bytes in memory in hexadecimal."""
    return hashlib.sha256(data).hexdigest()
