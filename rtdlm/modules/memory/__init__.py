"""Episodic memory: a bounded store of past keys and values, read exactly, forgotten by a policy.

    reading = read_store(query, store, label, top_k=32, scale_H=scale, null_H=null, any_label=False)
    store = mark_used(store, reading.used_BM)
    store = write_store(store, key, value, label, token, rows=16, forget="adaptive")

Stores are explicit state with static shapes, zeros when empty; all of this is pure, runs in `jit`,
and treats every row of a batch alone. `rtdlm.checkpoint.bank` keeps stores in files.
"""

from rtdlm.modules.memory.forget import FORGET
from rtdlm.modules.memory.novelty import novelty
from rtdlm.modules.memory.read import Reading, read_store
from rtdlm.modules.memory.store import Replay, Store, consolidation_rows, mark_used
from rtdlm.modules.memory.write import write_store

__all__ = [
    "FORGET",
    "Reading",
    "Replay",
    "Store",
    "consolidation_rows",
    "mark_used",
    "novelty",
    "read_store",
    "write_store",
]
