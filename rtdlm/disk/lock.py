"""One writer a directory: an advisory lock that the kernel drops when its owner dies."""

import fcntl
import os
import socket
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from rtdlm.config.errors import UserError
from rtdlm.disk.refusal import writing

LOCK_FILE = ".lock"


class DirectoryLock:
    """Holds `directory/.lock` until `release`, or until the process ends in whatever way.

    The file stays behind and names its last owner; only the lock on it counts.

    Raises:
        UserError: another process holds it.
        StorageError: the file cannot be written, or the file system has no locks.
    """

    def __init__(self, directory: Path) -> None:
        path = directory / LOCK_FILE
        with writing(path), ExitStack() as undo:
            self._file = undo.enter_context(path.open("a+", encoding="utf-8"))
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._file.seek(0)
                owner = self._file.read().strip()
                raise UserError(
                    f"{directory} is being written by {owner or 'another process'}; wait until it "
                    "ends or choose another directory"
                ) from None
            self._file.truncate(0)
            self._file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            self._file.flush()
            undo.pop_all()

    def release(self) -> None:
        """Lets the next writer in; a second call does nothing."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()
