"""One process of a run, with a fault inside: `python -m benchmarks.faults.child FAULT arguments`.

FAULT is JSON: {"file_bytes": n} lets no file grow beyond n bytes, as a full disk would;
{"stall_at": step} makes the loader never come back with that step's rows.
"""

import json
import resource
import sys
import time
from typing import Any

from rtdlm.config.command_line import leave
from rtdlm.data import Loader
from rtdlm.train import main


def stall(step: int) -> None:
    """Makes reading the rows of `step` last for ever."""
    read = Loader.rows

    def rows(loader: Loader, number: int, *place: int) -> Any:
        while number == step:
            time.sleep(3600)
        return read(loader, number, *place)

    setattr(Loader, "rows", rows)  # noqa: B010


if __name__ == "__main__":
    fault = json.loads(sys.argv[1])
    if "file_bytes" in fault:
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault["file_bytes"], resource.RLIM_INFINITY))
    if "stall_at" in fault:
        stall(fault["stall_at"])
    leave(main(sys.argv[2:]))
