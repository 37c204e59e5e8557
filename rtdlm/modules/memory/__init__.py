"""Memory in three tiers, explicit state in and out: short-term, long-term and meta-task.

`MemoryLayer` puts them behind one state, `LayerMemory`; each is a file that can be used alone:

    reading = read_store(query, store, label, top_k=32, scale_H=scale, null_H=null, any_label=False)
    store = mark_used(store, reading.used_BM)
    store = write_store(store, key, value, label, token, rows=16, forget="adaptive")

States have static shapes and are zeros when empty; everything is pure, runs in `jit`, and treats
each row of a batch alone. `rtdlm.checkpoint.bank` keeps stores in files.
"""

from rtdlm.modules.memory.attended import Attended, pass_on
from rtdlm.modules.memory.forget import FORGET
from rtdlm.modules.memory.layer import (
    LayerMemory,
    MemoryLayer,
    MemoryOutput,
    MemoryStatistics,
)
from rtdlm.modules.memory.matrix import Matrix
from rtdlm.modules.memory.meta import Modulation
from rtdlm.modules.memory.novelty import novelty
from rtdlm.modules.memory.pending import Pending
from rtdlm.modules.memory.read import Reading, read_store
from rtdlm.modules.memory.recent import MemoryHeads, continued
from rtdlm.modules.memory.short_term import ShortTerm
from rtdlm.modules.memory.store import Replay, Store, consolidation_rows, mark_used
from rtdlm.modules.memory.task_tokens import TaskMemory
from rtdlm.modules.memory.tokens import Tokens
from rtdlm.modules.memory.write import write_store

__all__ = [
    "FORGET",
    "Attended",
    "LayerMemory",
    "Matrix",
    "MemoryHeads",
    "MemoryLayer",
    "MemoryOutput",
    "MemoryStatistics",
    "Modulation",
    "Pending",
    "Reading",
    "Replay",
    "ShortTerm",
    "Store",
    "TaskMemory",
    "Tokens",
    "consolidation_rows",
    "continued",
    "mark_used",
    "novelty",
    "pass_on",
    "read_store",
    "write_store",
]
