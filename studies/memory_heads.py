"""`python -m studies memory_heads`: memory that goes by attention's heads, on long real text.

On the text and by the steps of `memory_text`, for tiers that go by attention's queries, keys and
values and add what they read to what its heads read (`memory.tier_form=attention`), and for a
window and task tokens that attention reads itself. Costing no projections, they stand in both
layers and have all heads, where those of `memory_text` have two in the second. The store is of 256
tokens and knows how old each is; alone it takes the place of what is near. A window of eight tokens
shows what the end of a segment takes away by itself: with any window convolutions go on across it,
too.
"""

from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence

from rtdlm.evaluation.results import Result
from studies import memory_side as side
from studies import memory_text
from studies.memory_text import WINDOW, add_flags
from studies.variants import Tree

DESCRIPTION = "held-out loss on long text: tiers by attention's heads"
SEEDS = memory_text.SEEDS
FIRST_SEED = 3
"""The store's form was chosen on the seeds before this one."""

BY_ATTENTION: Tree = {"tier_form": "attention"}
STORE: Tree = {
    **BY_ATTENTION, "episodic_slots": 256, "episodic_top_k": 32, "episodic_recency": True,
}  # fmt: skip
TOKENS: Tree = {**side.TASK, "task_form": "attention"}
TIERS: Mapping[str, Sequence[Tree]] = {
    "none": (),
    "a window of 8 tokens": ({**WINDOW, "stm_window": 8},),
    "recurrent": (BY_ATTENTION, side.RECURRENT),
    "window": (WINDOW,),
    "window and recurrent": (BY_ATTENTION, WINDOW, side.RECURRENT),
    "MTM": (TOKENS,),
    "episodic": (STORE, {"fusion": "mixed"}),
    "all": (STORE, WINDOW, side.RECURRENT, TOKENS),
}
JUDGED = ("window", "recurrent", "MTM", "episodic", "all")
"""Each tier alone, and together."""

__all__ = ["DESCRIPTION", "SEEDS", "add_flags", "file_name", "measure"]


def file_name(flags: Namespace) -> str | None:
    """See `memory_text.file_name`."""
    return memory_text.file_name(flags, "memory_heads")


def measure(flags: Namespace) -> Iterator[list[Result]]:
    """See `memory_text.measure`."""
    yield from memory_text.compared(flags, TIERS, judged=JUDGED, first=FIRST_SEED)
