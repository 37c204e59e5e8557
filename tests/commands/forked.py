"""`python -m rtdlm.train` forked from a process that has imported it: what many starts share."""

import multiprocessing
import os
from multiprocessing.process import BaseProcess
from pathlib import Path

from rtdlm.config.command_line import leave
from rtdlm.train import main

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["rtdlm.training.run", "tests.commands.forked"])


def start(command: list[str], log: Path) -> BaseProcess:
    """A process of its own that ends as the command does; `log` gets what it says."""
    process = FORKED.Process(target=_train, args=(command, log))
    process.start()
    return process


def _train(command: list[str], log: Path) -> None:
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    leave(main(command))
