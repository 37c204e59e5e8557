"""Sources of training rows, and several of them joined to one.

Axes: R rows, T positions.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from rtdlm.data.batch import Batch, empty_batch


class Windows(Protocol):
    """Training rows that can be read in any order; `StreamWindows` and `RowWindows` are such.

    Attributes:
        num_windows: rows in a pass.
        num_tokens: labels in a pass [tokens].
        num_shifts: in how many ways the boundaries of a pass can be moved, at least 1.
    """

    num_windows: int
    num_tokens: int
    num_shifts: int

    def rows(self, windows: np.ndarray, *, shift: int) -> Batch:
        """The rows `windows` [R], each in [0, num_windows), with `shift` in [0, num_shifts)."""
        ...

    def goes_on(self, windows: np.ndarray, *, shift: int) -> np.ndarray:
        """Bool [R]: the row begins inside the document that the window before ends with."""
        ...


class JoinedWindows:
    """The windows of several sources, numbered one source after the other.

    Attributes:
        num_windows: rows in a pass over all.
        num_tokens: labels in a pass over all [tokens].
    """

    def __init__(self, sources: Sequence[Windows]) -> None:
        self.sources = list(sources)
        self._ends = np.cumsum([source.num_windows for source in sources], dtype=np.int64)
        self.num_windows = int(self._ends[-1])
        self.num_tokens = sum(source.num_tokens for source in sources)

    def rows(self, windows: np.ndarray, *, seq_len: int, shifts: Sequence[int]) -> Batch:
        """The rows `windows` [R]; `shifts` has one shift a source."""
        batch = empty_batch(len(windows), seq_len)
        owners = np.searchsorted(self._ends, windows, side="right")
        for owner in np.unique(owners):
            source = self.sources[owner]
            places = np.flatnonzero(owners == owner)
            first = self._ends[owner] - source.num_windows
            rows = source.rows(windows[places] - first, shift=shifts[owner])
            fill_rows(batch, places, rows)
        return batch

    def goes_on(self, windows: np.ndarray, *, shifts: Sequence[int]) -> np.ndarray:
        """Bool [R], as of one source; its first window goes on with nothing."""
        found = np.zeros(len(windows), bool)
        owners = np.searchsorted(self._ends, windows, side="right")
        for owner in np.unique(owners):
            source = self.sources[owner]
            places = np.flatnonzero(owners == owner)
            first = self._ends[owner] - source.num_windows
            found[places] = source.goes_on(windows[places] - first, shift=shifts[owner])
        return found


def fill_rows(batch: Batch, places: np.ndarray, rows: Batch) -> None:
    """Writes `rows` into `batch` at `places`."""
    for target, values in zip(batch, rows, strict=True):
        target[places] = values
