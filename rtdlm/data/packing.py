"""Packed rows: what documents that share a row need to never see each other.

Axes: R rows, T positions.
"""

import numpy as np

from rtdlm.data.batch import Batch


def pack(ids: np.ndarray, *, lengths: np.ndarray, document_id: int) -> Batch:
    """Rows of a stream, with a segment and positions for each document in them.

    Args:
        ids: int32 [R, T + 1], consecutive tokens of the stream.
        lengths: [R], how many of the T inputs count; the rest becomes padding.
        document_id: the token that starts a document.

    Returns:
        A batch of R rows. A row's segments count from 1, also if it starts inside a document.
    """
    inputs, labels = ids[:, :-1], ids[:, 1:]
    place = np.arange(inputs.shape[1], dtype=np.int32)
    starts = inputs == document_id
    documents = np.cumsum(starts, axis=1, dtype=np.int32)
    segments = documents - documents[:, :1] + 1
    positions = place - np.maximum.accumulate(np.where(starts, place, 0), axis=1)
    real = place < lengths[:, None]
    return Batch(
        input_ids=np.where(real, inputs, 0),
        labels=np.where(real, labels, 0),
        segment_ids=np.where(real, segments, 0),
        positions=np.where(real, positions, 0),
        weights=real.astype(np.float32),
    )
