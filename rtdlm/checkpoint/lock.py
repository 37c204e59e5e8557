"""One writer to an output directory: an advisory lock that the kernel drops when its owner dies."""

import fcntl
import os
import socket
from pathlib import Path

from rtdlm.config.errors import UserError

LOCK = "run.lock"


class RunLock:
    """Holds `root/run.lock` until `release`, or until the process ends in whatever way.

    The file stays behind; only the lock on it counts.

    Raises:
        UserError: another process holds it.
        OSError: the file cannot be made, or the file system has no locks.
    """

    def __init__(self, root: Path) -> None:
        self._file = (root / LOCK).open("a+", encoding="utf-8")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            owner = self._file.read().strip()
            self._file.close()
            raise UserError(
                f"{root} is being written by {owner or 'another process'}; wait until that run "
                "ends or choose another --out"
            ) from None
        except OSError:
            self._file.close()
            raise
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        self._file.flush()

    def release(self) -> None:
        """Lets the next writer in; a second call does nothing."""
        self._file.close()
