"""A graph over the tokens of a row, built from them and reasoned over, as a layer of a model.

    A = builder(x)                    who reads whom: earlier tokens of the same document only
    h = reasoner(W_in x, A)           some hops, each token as many as it needs
    y = W_out h

No hop reaches a later token, so k hops do not either. In decoding the cache holds what earlier
tokens are found by and what they held before every hop; a new token meets what it would have met
in the whole row. For T tokens read by S slots the cost is that of comparing, T S, and T S a hop.

Axes: B batch, T new tokens, S slots, R edge types, E key features, K hops, G features in the graph,
D model, X experts.
"""

from functools import partial
from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from rtdlm.config import GraphConfig
from rtdlm.modules.graph.block import GraphTransformerBlock
from rtdlm.modules.graph.builder import DynamicGraphBuilder
from rtdlm.modules.graph.cache import GraphCache, Slots
from rtdlm.modules.graph.experts import with_neighbours
from rtdlm.modules.graph.graph import Dense
from rtdlm.modules.graph.reasoner import MultiHopGraphReasoner, Reasoning
from rtdlm.modules.graph.select import SELECTIONS
from rtdlm.modules.primitives import Projection

WIDER = 2
"""Hidden features of a transformer block over edges, over those in the graph: with it a block has
about the parameters of a neuron of two edge types."""


class GraphStatistics(NamedTuple):
    """Of every token, float32."""

    hops_BT: jax.Array
    """Hops taken, as expected under halting."""
    distance_BT: jax.Array
    """How far before it those stand that it reads [tokens]."""
    neighbours_BT: jax.Array
    """How many it reads over edges of one type."""


class GraphOutput(NamedTuple):
    """What the layer makes of its tokens."""

    out_BTD: jax.Array
    spread: "Spread"
    statistics: GraphStatistics


class Spread:
    """Averages the router's logits with those of the tokens that are read; see `GraphMoE`."""

    def __init__(self, graph: Dense, slots: Slots) -> None:
        self._graph, self._slots = graph, slots

    def __call__(self, logits_BTX: jax.Array) -> jax.Array:
        """`[B, T, X]` -> `[B, T, X]`."""
        return with_neighbours(self._graph, self._slots.logits(logits_BTX), logits_BTX)

    @property
    def cache(self) -> GraphCache | None:
        """With all that was read so far."""
        return self._slots.cache


class GraphLayer(hk.Module):
    """`DynamicGraphBuilder` and `MultiHopGraphReasoner` over the tokens of rows."""

    def __init__(
        self, config: GraphConfig, *, features: int, out_scale: float, name: str = "graph"
    ) -> None:
        """
        Args:
            config: how many neighbours, edge types and hops.
            features: of a token in the graph.
            out_scale: scale of what is written before training.
            name: module name, part of the parameters' paths.
        """
        super().__init__(name=name)
        self.config = config
        self.features = features
        self.out_scale = out_scale

    def __call__(
        self,
        x_BTD: jax.Array,
        *,
        allowed_BTS: jax.Array,
        positions_BT: jax.Array,
        cache: GraphCache | None = None,
    ) -> GraphOutput:
        """
        Args:
            x_BTD: tokens.
            allowed_BTS: bool; which slots, or tokens of the row, a token may read: earlier ones.
            positions_BT: int32; slots of the tokens, or their places in the row.
            cache: of earlier tokens; None where the row is whole.
        """
        config, model = self.config, x_BTD.shape[-1]
        slots = Slots(cache, positions_BT)
        builder = DynamicGraphBuilder(
            neighbours=config.num_neighbours,
            num_kinds=config.num_kinds,
            key_dim=config.query_dim,
            select=SELECTIONS[config.chosen_by],
        )
        # In float32, as a router: in bfloat16 near ties would flip between two runs.
        query_BTRE, key_BTRE = builder.look(x_BTD.astype(jnp.float32))
        graph = builder.weigh(query_BTRE, slots.keys(key_BTRE), allowed_BTS)
        shape = (model, self.features)
        given_BTG = Projection("BTD,DG->BTG", shape=shape, name="input")(x_BTD)
        block = None
        if config.hears == "attention":
            block = partial(
                GraphTransformerBlock,
                num_heads=config.num_heads(self.features),
                head_dim=config.head_dim(self.features),
                d_ff=WIDER * self.features,
                # All hops write with the same weights, so that what they write adds up.
                out_scale=1 / config.hops,
            )
        reasoner = MultiHopGraphReasoner(
            num_kinds=config.num_kinds, halts=config.halts, block=block
        )
        thought = reasoner(given_BTG, graph, hops=config.hops, recall=slots.states)
        output = Projection("BTG,GD->BTD", shape=shape[::-1], scale=self.out_scale, name="output")
        statistics = _statistics(thought, graph, positions_BT, hops=config.hops)
        return GraphOutput(output(thought.state_BND), Spread(graph, slots), statistics)


def _statistics(
    thought: Reasoning, graph: Dense, positions_BT: jax.Array, *, hops: int
) -> GraphStatistics:
    weight_BRTS = graph.weight_BRNM
    slot_S = jnp.arange(weight_BRTS.shape[-1])
    back_BTS = (positions_BT[:, :, None] - slot_S[None, None]).astype(jnp.float32)
    far_BT = jnp.mean(jnp.sum(weight_BRTS * back_BTS[:, None], axis=-1), axis=1)
    read_BT = jnp.mean(jnp.sum((weight_BRTS > 0).astype(jnp.float32), axis=-1), axis=1)
    taken_BT = thought.hops_BN if thought.halt_BNK is not None else jnp.full_like(far_BT, hops)
    return GraphStatistics(taken_BT, far_BT, read_BT)
