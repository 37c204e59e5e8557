"""What a run on several hosts does together, and how it ends when one of them is gone."""

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from jax.sharding import NamedSharding

from rtdlm.config import AGIConfig, HostsConfig, StorageError, UserError
from rtdlm.config.errors import Unfinished
from rtdlm.data import Loader, PrepareProgress, Warmup
from rtdlm.parallel import Peers, find_hosts, join, put_rows
from rtdlm.training.corpus import Corpus, open_corpus, open_prepared
from rtdlm.training.source import Source

FAILURE, USER_MISTAKE = 1, 2


@contextmanager
def together(config: HostsConfig) -> Iterator[Peers]:
    """The processes of a run, met and parted from; alone, nothing happens.

    Where there are several, one that fails says why and ends at once, instead of waiting for the
    others, which wait for it: the connections that break tell them.

    Raises:
        UserError: not all came.
        Unfinished: as the body does, in all processes.
    """
    hosts = find_hosts(os.environ)
    if hosts is None:
        yield Peers()
        return
    join(hosts, config)
    peers = Peers()
    try:
        yield peers
    except Unfinished:
        jax.distributed.shutdown()
        raise
    except BaseException as error:
        _end(_told(error, peers), USER_MISTAKE if isinstance(error, UserError) else FAILURE)
    jax.distributed.shutdown()


def _told(error: BaseException, peers: Peers) -> str:
    who = f"process {peers.process} of {peers.count}"
    if isinstance(error, UserError | StorageError):
        return f"error: {error} ({who})"
    trace = "".join(traceback.format_exception(error))
    if isinstance(error, jax.errors.JaxRuntimeError):
        trace += f"{who}: what all processes do together broke off; if another one ended, its last "
        trace += "lines say why; start all again with --resume"
    return trace


def _end(text: str, status: int) -> None:
    print(text, file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(status)


def open_together(
    config: AGIConfig,
    out: Path,
    peers: Peers,
    *,
    source: Source | None = None,
    progress: Callable[[PrepareProgress], None] | None = None,
) -> Corpus:
    """`open_corpus`, the first process preparing text for all."""
    if not peers.leads:
        peers.follow("corpus", None)
        return open_prepared(config, out, source=source)
    corpus = open_corpus(config, out, source=source, progress=progress)
    peers.follow("corpus", None)
    return corpus


def place_batch(loader: Loader, warmup: Warmup, sharding: NamedSharding, step: int) -> Any:
    """The batch of a step on the devices; only this process's rows are read.

    While rows are cut into pieces a device may hold a part of one.
    """
    pieces, rows = warmup.pieces(step), warmup.rows(step)
    length = loader.seq_len // pieces

    def read(first: int, last: int) -> Any:
        start, stop = first // pieces, -(-last // pieces)
        batch = loader.rows(step, start, stop)
        skip = first - start * pieces
        return type(batch)(*(array[skip : skip + last - first] for array in batch))

    return put_rows(read, sharding, (rows * pieces, length))
