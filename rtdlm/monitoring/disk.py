"""Writing what a run leaves behind, with the disk's refusals as one sentence."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rtdlm.config.errors import StorageError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an OSError in its body into a StorageError that names `path`."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{path} could not be written: {error.strerror or error}; free some space there or "
            "choose another --out"
        ) from error


def replace_file(path: Path, data: bytes) -> None:
    """Writes `path` so that a reader sees the old bytes or the new ones, never a part.

    Raises:
        StorageError: the disk refused; the old file is intact.
    """
    temporary = path.with_name(f".{path.name}.writing")
    with writing(path):
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
