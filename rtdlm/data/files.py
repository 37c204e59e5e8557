"""Files that exist whole or not at all, and one writer a directory."""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rtdlm.config.errors import StorageError, UserError

LOCK_FILE = ".lock"


def write_atomic(path: Path, data: bytes) -> None:
    """Writes `data` to `path`: a reader, or a crash at any moment, sees the old file or the new.

    Raises:
        StorageError: the disk refused, for instance because it is full.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_directory(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _refused(path, error) from error


def _sync_directory(path: Path) -> None:
    """Makes a rename last through a loss of power."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _refused(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"could not write {path}: {error.strerror or error}; what was written before is intact, "
        "so make room or choose another directory and run the command again"
    )


def make_directory(path: Path) -> None:
    """Creates a directory and its parents, if they are not there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{path} is not a directory; choose another place to write to") from None
    except OSError as error:
        raise _refused(path, error) from error


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Holds `directory` for one process; the system frees it when the process dies.

    The file `.lock` stays behind; only the lock on it counts.

    Raises:
        UserError: another process holds it.
        StorageError: the file system cannot lock.
    """
    try:
        file = (directory / LOCK_FILE).open("a")
    except OSError as error:
        raise _refused(directory / LOCK_FILE, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process is writing to {directory}; wait for it or choose another "
                "directory"
            ) from None
        except OSError as error:
            raise _refused(directory / LOCK_FILE, error) from error
        yield


def sha256(data: bytes) -> str:
    """Hexadecimal SHA-256 of bytes in memory."""
    return hashlib.sha256(data).hexdigest()


def sha256_of_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
