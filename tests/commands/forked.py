"""`python -m rtdlm.train` forked from a process that has imported it: what many starts share."""

import multiprocessing
import os
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

from rtdlm.config.command_line import leave
from rtdlm.train import main

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["rtdlm.training.run", "tests.commands.forked"])


def start(command: list[str], log: Path, *, hangs: str | None = None) -> BaseProcess:
    """A process of its own that ends as the command does; `log` gets what it says.

    Whoever waits there for the disk to have a file with `hangs` in its path waits for ever.
    """
    process = FORKED.Process(target=_train, args=(command, log, hangs))
    process.start()
    return process


def _train(command: list[str], log: Path, hangs: str | None) -> None:
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if hangs is not None:
        _hang(hangs)
    leave(main(command))


def _hang(word: str) -> None:
    plain = os.fsync

    def fsync(descriptor: int) -> None:
        while word in os.readlink(f"/proc/self/fd/{descriptor}"):
            time.sleep(3600)
        plain(descriptor)

    os.fsync = fsync  # type: ignore[assignment]
