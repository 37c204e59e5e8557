"""What counts as a wrong end, with the processes played."""

import random
from pathlib import Path
from typing import Any

import pytest

from benchmarks.chaos import FAULTS
from benchmarks.faults.cluster import End

STACKS = """Timeout (0:00:25)!
Thread 0x00007f8a4bfff6c0 (most recent call first):
  File "/here/benchmarks/faults/child.py", line 28 in rows
  File "/here/rtdlm/training/together.py", line 97 in read

Thread 0x00007f8b1c1d2740 (most recent call first):
  File "/here/rtdlm/training/loop.py", line 128 in run
"""


class Played:
    """A cluster that ended with `statuses` and said `text`."""

    def __init__(self, out: Path, text: str, statuses: tuple[int, ...]) -> None:
        self.out, self._text, self._statuses = out, text, statuses

    def start(self, **options: Any) -> None:
        assert [list(fault) for fault in options["faults"].values()] == [["stall_at"]]

    def reach(self, step: int) -> None:
        assert step == 3

    def wait(self, *, limit: float) -> End:
        return End(self._statuses, 1.0, hung=False)

    def said(self) -> str:
        return self._text

    def events(self) -> list[dict[str, Any]]:
        return []


@pytest.mark.parametrize(
    ("text", "statuses", "wrong"),
    [
        (STACKS, (1, -6), False),
        (STACKS, (1, 0), True),
        ("", (1, -6), True),
        (STACKS.replace("rows", "else"), (1, -6), True),
        (STACKS.removeprefix("Timeout (0:00:25)!\n"), (1, -6), True),
    ],
    ids=["told", "one complete", "nothing told", "another place", "no time-out"],
)
def test_a_stall_must_end_with_the_stacks(
    tmp_path: Path, text: str, statuses: tuple[int, ...], wrong: bool
) -> None:
    run: Any = Played(tmp_path, text, statuses)
    assert FAULTS["a loader that stalls"](run, 3, random.Random(0)).wrong is wrong
