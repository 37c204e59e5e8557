import errno
import os
from pathlib import Path

import pytest

from rtdlm.config.errors import StorageError, UserError
from rtdlm.disk import refused, telling, writing

INTACT = "what was written before is intact"


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (errno.ENOSPC, "No space left on device; make room or choose another directory"),
        (errno.EDQUOT, "Disk quota exceeded; make room or choose another directory"),
        (
            errno.EFBIG,
            "File too large; raise the file size limit (ulimit -f) or choose another directory",
        ),
        (errno.EACCES, "Permission denied; mend that or choose another directory"),
        (errno.EROFS, "Read-only file system; mend that or choose another directory"),
    ],
)
def test_the_advice_fits_the_reason(tmp_path: Path, code: int, told: str) -> None:
    cause = OSError(code, os.strerror(code))
    with pytest.raises(StorageError) as error, writing(tmp_path / "a"):
        raise cause
    assert str(error.value) == f"{tmp_path}/a could not be written: {told}; {INTACT}"
    assert error.value.__cause__ is cause


def test_an_error_without_a_number_is_told_in_its_own_words() -> None:
    with pytest.raises(StorageError) as error, telling("the page is lost"):
        raise OSError("short write")
    assert str(error.value) == (
        f"the page is lost: short write; mend that or choose another directory; {INTACT}"
    )


def test_what_the_caller_knows_better_is_told_instead() -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    error = refused("step 5 is lost", full, room="free 3 MB", left="step 4 is there")
    assert str(error) == (
        "step 5 is lost: No space left on device; free 3 MB or choose another directory; "
        "step 4 is there"
    )


@pytest.mark.parametrize("error", [StorageError("told"), UserError("a mistake"), KeyError("bug")])
def test_what_is_no_news_of_the_disk_passes(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)) as found, writing(tmp_path):
        raise error
    assert found.value is error
