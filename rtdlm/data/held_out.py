"""The fixed batches that a run is evaluated on: the same bits every time."""

from collections.abc import Sequence
from typing import overload

import numpy as np

from rtdlm.data.batch import Batch, pad_rows
from rtdlm.data.windows import JoinedWindows


class HeldOutBatches(Sequence[Batch]):
    """Held-out windows in order, B a batch; the last batch is filled up with rows of padding.

    With fewer batches than all of the split needs, the windows are spread evenly over it.
    """

    def __init__(
        self, windows: JoinedWindows, *, seq_len: int, batch_size: int, num_batches: int
    ) -> None:
        self._windows = windows
        self._seq_len = seq_len
        self._batch_size = batch_size
        total = windows.num_windows
        wanted = num_batches * batch_size
        if 0 < wanted < total:
            self._chosen = np.arange(wanted, dtype=np.int64) * total // wanted
        else:
            self._chosen = np.arange(total, dtype=np.int64)

    def __len__(self) -> int:
        return -(-len(self._chosen) // self._batch_size)

    @overload
    def __getitem__(self, index: int) -> Batch: ...
    @overload
    def __getitem__(self, index: slice) -> list[Batch]: ...
    def __getitem__(self, index: int | slice) -> Batch | list[Batch]:
        numbers = range(len(self))[index]
        if isinstance(numbers, range):
            return [self.rows(number, 0, self._batch_size) for number in numbers]
        return self.rows(numbers, 0, self._batch_size)

    def rows(self, index: int, start: int, stop: int) -> Batch:
        """Rows `start`, ..., `stop` - 1 of batch `index`: what one of several hosts needs."""
        first = index * self._batch_size
        chosen = self._chosen[first + start : first + stop]
        shifts = [0] * len(self._windows.sources)
        rows = self._windows.rows(chosen, seq_len=self._seq_len, shifts=shifts)
        return pad_rows(rows, stop - start)
