"""Batches of characters and the loss over held-out ones, for our side of what trains on them.

Axes: B batch, T time, N the text.
"""

from typing import Any

import numpy as np

from benchmarks.text import Windows
from rtdlm.config import AGIConfig
from rtdlm.data import Batch, Warmup, cut_rows
from rtdlm.evaluation import EvalStep

EVALUATION_ROWS = 128


def random_batch(
    train_N: np.ndarray, random: np.random.Generator, config: AGIConfig, *, step: int = 0
) -> Batch:
    """Random windows of the text, each a document, as many as `step` takes."""
    warmup, length = Warmup(config), config.max_seq_len
    rows = warmup.rows(step)
    starts_B = random.integers(len(train_N) - length, size=rows)
    place_BT = starts_B[:, None] + np.arange(length)
    batch = packed(train_N[place_BT], train_N[place_BT + 1], np.ones(rows))
    return cut_rows(batch, warmup.pieces(step))


def held_out_loss(judge: EvalStep, params: Any, held_out: Windows) -> float:
    """Mean over all windows [nats a character]."""
    total, (rows, length) = 0.0, held_out.ids_BT.shape
    for start in range(0, rows, EVALUATION_ROWS):
        # One compiled shape: the last part is filled with rows that do not count.
        place = np.arange(start, start + EVALUATION_ROWS)
        ids_BT, labels_BT = (array[place % rows] for array in held_out)
        total += float(judge(params, packed(ids_BT, labels_BT, place < rows)).nll)
    return total / (rows * length)


def packed(ids_BT: np.ndarray, labels_BT: np.ndarray, weights_B: np.ndarray) -> Batch:
    """A document a row; a row of weight 0 does not count."""
    shape = ids_BT.shape
    return Batch(
        input_ids=ids_BT.astype(np.int32),
        labels=labels_BT.astype(np.int32),
        positions=np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape),
        segment_ids=np.ones(shape, np.int32),
        weights=np.broadcast_to(weights_B[:, None], shape).astype(np.float32),
    )
