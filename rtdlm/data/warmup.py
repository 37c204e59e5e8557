"""Which rows the batch of a step has while steps still grow; see `WarmupConfig`.

Both are pure functions of the step, so that any batch can still be built alone: a step takes the
next `rows(step)` rows of the run's endless sequence and cuts each into `pieces(step)`.

Axes: B rows, T positions, P pieces of a row.
"""

import numpy as np

from rtdlm.config import AGIConfig
from rtdlm.config.warmup import doublings
from rtdlm.data.batch import Batch


class Warmup:
    """How much each step reads.

    Attributes:
        starts: the steps at which sizes change, 0 among them; from the last on, steps are whole.
    """

    def __init__(self, config: AGIConfig) -> None:
        given = config.warmup
        self._batch_size, self._seq_len = config.batch_size, config.max_seq_len
        self._row_starts = _starts(given.batch_size, config.batch_size, given.batch_steps)
        self._cut_starts = _starts(given.seq_len, config.max_seq_len, given.seq_len_steps)
        self.starts = tuple(sorted({*self._row_starts, *self._cut_starts}))

    def rows(self, step: int) -> int:
        """Whole rows that the step reads."""
        return self._batch_size >> _left(self._row_starts, step)

    def pieces(self, step: int) -> int:
        """Rows of the batch that each of them becomes."""
        return 1 << _left(self._cut_starts, step)

    def rows_before(self, step: int) -> int:
        """Whole rows that all steps before this one have read."""
        ends = (*self._row_starts[1:], step)
        spans = zip(self._row_starts, ends, strict=True)
        return sum(self.rows(start) * max(0, min(end, step) - start) for start, end in spans)

    def tokens_before(self, step: int) -> int:
        """The same in tokens."""
        return self.rows_before(step) * self._seq_len

    def steps_for(self, tokens: int) -> int:
        """The fewest steps that read as many tokens."""
        step = 0
        while step < self._row_starts[-1] and self.tokens_before(step) < tokens:
            step += 1
        left = max(0, tokens - self.tokens_before(step))
        return step + -(-left // (self._batch_size * self._seq_len))


def _starts(first: int | None, whole: int, steps: int | None) -> tuple[int, ...]:
    """The steps where sizes begin; the last one is the whole size."""
    if first is None or steps is None:
        return (0,)
    times = doublings(first, whole)
    return tuple(-(-stage * steps // times) for stage in range(times + 1))


def _left(starts: tuple[int, ...], step: int) -> int:
    """Doublings that are still to come at `step`."""
    return sum(start > step for start in starts)


def cut_rows(batch: Batch, pieces: int) -> Batch:
    """`[B, T]` -> `[B P, T / P]`: each row as P rows that do not see each other.

    No token is lost: the label of a piece's last token is the next piece's first. A document that
    goes on in the next piece begins there anew, at position 0.
    """
    if pieces == 1:
        return batch
    cut = Batch(*(array.reshape(len(array) * pieces, -1) for array in batch))
    goes_on = (cut.segment_ids == cut.segment_ids[:, :1]) & (cut.segment_ids > 0)
    positions = cut.positions - np.where(goes_on, cut.positions[:, :1], 0)
    return cut._replace(positions=positions)
