"""Checkpoints on disk: atomic, checksummed, in parts when large, resumable.

    with CheckpointStore(out, keep_last=2, keep_every=0, part_bytes=2 * 10**9) as store:
        snapshot, passed_over = store.newest_complete()
        store.save(Snapshot(step=100, params=flatten_tree(params), ...), best=True)

    model = load_model(out)    # parameters, configuration and tokenizer of the newest complete one

Importing this loads no JAX; `rtdlm.checkpoint.tree`, which turns pytrees into flat names, does.
"""

from rtdlm.checkpoint.group import Group
from rtdlm.checkpoint.reading import (
    Description,
    NewestComplete,
    SavedModel,
    describe_checkpoint,
    has_checkpoint,
    load_checkpoint,
    load_model,
    newest_complete,
    read_params,
    resolve_checkpoint,
)
from rtdlm.checkpoint.snapshot import Snapshot
from rtdlm.checkpoint.store import CheckpointStore, Saved

__all__ = [
    "CheckpointStore",
    "Description",
    "Group",
    "NewestComplete",
    "Saved",
    "SavedModel",
    "Snapshot",
    "describe_checkpoint",
    "has_checkpoint",
    "load_checkpoint",
    "load_model",
    "newest_complete",
    "read_params",
    "resolve_checkpoint",
]
