"""What the disk refuses, told in one sentence: what was to be done, why not, how to mend it.

"run/curves.png could not be written: No space left on device; make room or choose another
directory; what was written before is intact"
"""

import errno
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from rtdlm.config.errors import StorageError

_FULL = (errno.ENOSPC, errno.EDQUOT)


def refused(
    what: str,
    error: OSError,
    *,
    room: str = "make room",
    left: str = "what was written before is intact",
) -> StorageError:
    """The error to raise from `error`.

    Args:
        what: the beginning of the sentence, such as "FILE could not be written".
        error: what the operating system said.
        room: what to do when the disk is full.
        left: what there still is.
    """
    reason = error.strerror or str(error)
    return StorageError(
        f"{what}: {reason}; {_remedy(error, room)} or choose another directory; {left}"
    )


@contextmanager
def telling(what: str) -> Iterator[None]:
    """Turns an OSError in its body into a StorageError that begins with `what`; see `refused`."""
    try:
        yield
    except StorageError:
        raise  # told already, by a file in the body
    except OSError as error:
        raise refused(what, error) from error


def writing(path: Path) -> AbstractContextManager[None]:
    """Turns an OSError in its body into a StorageError that names `path`."""
    return telling(f"{path} could not be written")


def _remedy(error: OSError, room: str) -> str:
    if error.errno in _FULL:
        return room
    if error.errno == errno.EFBIG:
        return "raise the file size limit (ulimit -f)"
    return "mend that"
