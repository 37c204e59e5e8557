"""Snapshots that a step number determines, for tests and for the processes that they start."""

import hashlib
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from rtdlm.checkpoint import CheckpointStore, Snapshot

FLOATS = 1 << 13


def snapshot_at(step: int, *, tokenizer: bytes | None = b'{"model": {}}') -> Snapshot:
    """A snapshot of several types and shapes that differs from that of any other step."""
    random = np.random.default_rng(step)
    weights = random.standard_normal(FLOATS, np.float32)
    return Snapshot(
        step=step,
        params={
            "embed/table": weights.reshape(256, -1),
            "block/scale": weights[:64].astype(ml_dtypes.bfloat16),
            "block/matrix": random.standard_normal((96, 64)).astype(np.float32),
        },
        optimizer={
            "0/count": np.array(step, np.int32),
            "0/finite": np.array(step % 2 == 1),
            "0/mu/table": weights[::-1].copy(),
            "key": random.integers(0, 2**32, 2, np.uint32),
        },
        state={"step": step, "loss": float(weights[0]), "data": {"epoch": 0, "row": 8 * step}},
        config=f"d_model: 256\nseed: {step}\n",
        tokenizer=tokenizer,
    )


def open_store(root: Path, **options: Any) -> CheckpointStore:
    """A store with small parts, so that every snapshot has an index."""
    return CheckpointStore(
        root, **{"keep_last": 2, "keep_every": 0, "part_bytes": 1 << 15} | options
    )


def digest(snapshot: Snapshot) -> str:
    """A hash over every bit of a snapshot."""
    total = hashlib.sha256()
    for part in (snapshot.params, snapshot.optimizer):
        for name, array in sorted(part.items()):
            total.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    rest = (snapshot.step, snapshot.state, snapshot.config, snapshot.tokenizer)
    total.update(repr(rest).encode())
    return total.hexdigest()
