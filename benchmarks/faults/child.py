"""One process of a run, with a fault inside: `python -m benchmarks.faults.child FAULT arguments`.

FAULT is JSON: {"file_bytes": n} lets no file grow beyond n bytes, as a full disk would;
{"stall_at": step} makes the loader never come back with that step's rows.
"""

import json
import resource
import sys
import time
from contextlib import nullcontext
from typing import Any
from unittest.mock import patch

from rtdlm.config.command_line import leave
from rtdlm.data import Loader
from rtdlm.train import main


def stalling(step: int) -> Any:
    """While entered, reading the rows of `step` lasts for ever."""
    read = Loader.rows

    def rows(loader: Loader, number: int, *place: int) -> Any:
        while number == step:
            time.sleep(3600)
        return read(loader, number, *place)

    return patch.object(Loader, "rows", rows)


if __name__ == "__main__":
    fault = json.loads(sys.argv[1])
    if "file_bytes" in fault:
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault["file_bytes"], resource.RLIM_INFINITY))
    with stalling(fault["stall_at"]) if "stall_at" in fault else nullcontext():
        leave(main(sys.argv[2:]))
