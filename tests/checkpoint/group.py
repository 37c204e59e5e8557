"""The processes of a run as threads that talk over one board."""

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from rtdlm.checkpoint import Snapshot
from rtdlm.checkpoint.pieces import piece_name

SECONDS = 30.0


class Board:
    """Names and what was said under them; once each, as JAX's service has it."""

    def __init__(self) -> None:
        self._told: dict[str, str] = {}
        self._change = threading.Condition()

    def say(self, name: str, value: Any) -> None:
        with self._change:
            assert name not in self._told, f"{name} is used twice"
            self._told[name] = json.dumps(value)
            self._change.notify_all()

    def hear(self, name: str) -> Any:
        with self._change:
            assert self._change.wait_for(lambda: name in self._told, SECONDS), f"nobody says {name}"
            return json.loads(self._told[name])


class Member:
    """One of them."""

    def __init__(self, board: Board, process: int, count: int) -> None:
        self._board, self.process, self.count = board, process, count
        self.leads = process == 0

    def follow(self, name: str, value: Any) -> Any:
        if self.leads:
            self._board.say(name, value)
            return value
        return self._board.hear(name)

    def gather(self, name: str, value: Any) -> list[Any]:
        self._board.say(f"{name}/{self.process}", value)
        return [self._board.hear(f"{name}/{number}") for number in range(self.count)]


def together(count: int, act: Callable[[Member], Any]) -> list[Any]:
    """What `act` returns or raises in each of `count` processes."""
    board = Board()

    def outcome(process: int) -> Any:
        try:
            return act(Member(board, process, count))
        except Exception as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(outcome, range(count)))


def own(snapshot: Snapshot, member: Member) -> Snapshot:
    """What one of several processes holds: a share of the matrices' columns and of the vectors.

    Small arrays are whole in the last process, and scalars in the first.
    """
    params = _own(snapshot.params, member)
    optimizer = _own(snapshot.optimizer, member)
    rest = (snapshot.state, snapshot.config, snapshot.tokenizer)
    return Snapshot(snapshot.step, params, optimizer, *rest)


def _own(arrays: Any, member: Member) -> dict[str, np.ndarray]:
    found = {}
    for name, array in arrays.items():
        if array.size < 1000:
            if member.process == (0 if array.ndim == 0 else member.count - 1):
                found[name] = array
            continue
        size = array.shape[-1]
        bounds = [round(size * part / member.count) for part in range(member.count + 1)]
        span = slice(bounds[member.process], bounds[member.process + 1])
        index = (*(slice(None),) * (array.ndim - 1), span)
        found[piece_name(name, index, array.shape)] = array[index]
    return found


def joined(snapshot: Snapshot) -> Snapshot:
    """The same with arrays that are whole."""
    parts = (snapshot.params, snapshot.optimizer)
    whole = [{name: np.asarray(array) for name, array in part.items()} for part in parts]
    rest = (snapshot.state, snapshot.config, snapshot.tokenizer)
    return Snapshot(snapshot.step, *whole, *rest)
