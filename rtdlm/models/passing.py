"""What goes into the layers and what comes out of them.

Axes: B batch, T time, D model, L layers, H heads, V vocabulary.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rtdlm.models.block import BlockOutput, Earlier
from rtdlm.models.cache import DecodeCache
from rtdlm.models.core_state import AllExits, Spent
from rtdlm.models.exits import Pondered
from rtdlm.models.memory import MemoryState
from rtdlm.modules import head
from rtdlm.modules.attention import Rows, SpikeStatistics
from rtdlm.modules.depths import DepthStatistics
from rtdlm.modules.experts import ExpertStatistics
from rtdlm.modules.graph import GraphStatistics
from rtdlm.modules.memory import MemoryStatistics, Tokens
from rtdlm.modules.primitives import Past


class Features(NamedTuple):
    """The stack's result, ready for the output table."""

    x_BTD: jax.Array
    table_VD: jax.Array
    experts: ExpertStatistics | None
    depths: DepthStatistics | None
    cache: DecodeCache | None
    spikes: SpikeStatistics | None = None
    written_LH: jax.Array | None = None
    memory: MemoryState | None = None
    remembered: MemoryStatistics | None = None
    graphs: GraphStatistics | None = None
    spent: Spent | None = None
    exits: AllExits | None = None
    """Normalised states after every step of a core, in training."""
    pondered: Pondered | None = None

    @property
    def statistics(self) -> dict[str, Any]:
        """Of the layers and of memory, as `Scores` has them."""
        names = (
            "experts",
            "depths",
            "spikes",
            "remembered",
            "graphs",
            "memory",
            "spent",
            "pondered",
        )
        return {name: getattr(self, name) for name in names}


class Reading(NamedTuple):
    """How the tokens of one call relate: packed rows, or rows that a cache continues."""

    positions_BT: jax.Array
    """int32; within the document."""
    rows: Mapping[str, Rows]
    """By kind of attention."""
    weights_BT: jax.Array
    """Float32; 0 is padding."""
    past: Past | None
    """None where nothing looks back."""
    cache: DecodeCache | None
    training: bool = False
    """Layers that work on a share of the tokens choose them with the whole row in view."""
    tokens: Tokens | None = None
    """For memory; None where there is none."""
    memory: MemoryState | None = None
    """Of earlier segments; None where there is none, and in decoding, where the cache has it."""
    earlier: Earlier | None = None
    """For graphs and overlaps of states; None where there are none."""


Loop = tuple[BlockOutput, ...]
"""What the layers of a round leave behind, with a leading axis of rounds."""


class Scores(NamedTuple):
    """Statistics of every token, and of experts, depths, spikes, memory and graphs if any.

    These have a leading axis L.
    """

    tokens: head.TokenStatistics
    objective: jax.Array | None
    """What training minimises; None where no terms of it were given."""
    experts: ExpertStatistics | None
    depths: DepthStatistics | None = None
    spikes: SpikeStatistics | None = None
    remembered: MemoryStatistics | None = None
    """How memory was used."""
    graphs: GraphStatistics | None = None
    memory: MemoryState | None = None
    """What is remembered after these tokens; it has no axis L, nor have the next two."""
    spent: Spent | None = None
    """Steps of a controller's core; None in training."""
    pondered: Pondered | None = None
    """What its training weighs; None elsewhere."""


def of_all_layers(loops: list[Loop], what: str) -> Any:
    """The statistics `what` of all layers that have them, in order; None if none has."""
    found = []
    for loop in loops:
        own = [own for left in loop if (own := getattr(left, what)) is not None]
        if own:
            rounds = jax.tree.map(lambda *x: jnp.stack(x, axis=1), *own)
            found.append(jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), rounds))
    if not found:
        return None
    return jax.tree.map(lambda *x: jnp.concatenate(x), *found)
