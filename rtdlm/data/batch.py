"""`Batch`: what one training step reads.

Axes: B rows, T positions.
"""

from typing import NamedTuple

import numpy as np


class Batch(NamedTuple):
    """Rows of tokens with everything that packing documents into rows needs.

    Attributes:
        input_ids: int32 [B, T], in [0, vocab_size).
        labels: int32 [B, T], the token after each input (shifted here, nowhere else).
        segment_ids: int32 [B, T], 1 for a row's first document, 2 for its second, ...; 0 is
            padding. Positions see each other only if their segments are equal.
        positions: int32 [B, T], 0 at the start of each document (and of the row), then 1, 2, ...
        weights: float32 [B, T], 1 where the label counts, 0 for padding and ignored labels.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    segment_ids: np.ndarray
    positions: np.ndarray
    weights: np.ndarray


def empty_batch(num_rows: int, seq_len: int) -> Batch:
    """All padding: zeros [num_rows, seq_len]."""
    shape = (num_rows, seq_len)
    dtypes = (np.int32, np.int32, np.int32, np.int32, np.float32)
    return Batch(*(np.zeros(shape, dtype) for dtype in dtypes))


def pad_rows(batch: Batch, num_rows: int) -> Batch:
    """`batch` with rows of padding below it up to `num_rows`."""
    missing = num_rows - len(batch.input_ids)
    return Batch(*(np.pad(array, ((0, missing), (0, 0))) for array in batch))
