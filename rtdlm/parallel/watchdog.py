"""Ends a process whose step hangs, and says where it hung.

A collective waits for ever for a device that does not come. Python's fault handler writes the stack
of every thread from a thread of its own, whatever the others do, and ends the process; then the
runtime ends the processes on other hosts, and whoever started them starts all again.
"""

import faulthandler
import sys
from types import TracebackType
from typing import Self


class Watchdog:
    """While entered, `feed` must be called at least every `seconds`; 0 waits for ever.

    Where it is not, stacks go to standard error and the process ends with status 1, at once: no
    other thread may be able to run.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __enter__(self) -> Self:
        self.feed()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        faulthandler.cancel_dump_traceback_later()

    def feed(self) -> None:
        """Counts from now on."""
        if self._seconds:
            faulthandler.dump_traceback_later(self._seconds, exit=True, file=sys.stderr)
