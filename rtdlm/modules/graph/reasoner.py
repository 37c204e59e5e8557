"""Several hops over one graph with one set of weights, and as many as a node needs.

    h_0 = x;   h_(k+1) = neuron(h_k, x, A);   y = sum_k p_k h_k   (see `neuron` and `halt`)

The number of hops is an argument and no part of the parameters: a reasoner that was trained with
three may be run with twelve. A caller may hold states of nodes that are not computed now, as a
language model does in decoding: `hear` then says what nodes hear at each hop.

Axes: B batch, R edge types, N nodes, D features, K hops (0 to the last).
"""

from collections.abc import Callable
from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from rtdlm.modules.graph.graph import Graph
from rtdlm.modules.graph.halt import HaltGate
from rtdlm.modules.graph.neuron import GraphNeuron
from rtdlm.modules.primitives import halting

Hear = Callable[[int, jax.Array], jax.Array]
"""(hop, states `[B, N, D]` before it) -> what nodes hear, `[B, R, N, D]`."""


class Reasoning(NamedTuple):
    """What a reasoner came to."""

    state_BND: jax.Array
    """After all hops, or what is expected under halting."""
    halt_BNK: jax.Array | None
    """Share of each hop, float32; None without halting."""

    @property
    def hops_BN(self) -> jax.Array:
        """Hops that a node is expected to take, float32; only with halting."""
        assert self.halt_BNK is not None
        hop_K = jnp.arange(self.halt_BNK.shape[-1], dtype=jnp.float32)
        return jnp.einsum("BNK,K->BN", self.halt_BNK, hop_K)


class MultiHopGraphReasoner(hk.Module):
    """Runs one `GraphNeuron` again and again."""

    def __init__(self, *, num_kinds: int, halts: bool, name: str = "reasoner") -> None:
        """`num_kinds` is of the graph's edges; `halts` lets each node stop on its own."""
        super().__init__(name=name)
        self.num_kinds = num_kinds
        self.halts = halts

    def __call__(
        self, x_BND: jax.Array, graph: Graph, *, hops: int, hear: Hear | None = None
    ) -> Reasoning:
        """
        Args:
            x_BND: what each node is given.
            graph: who reads whom.
            hops: rounds of messages, at least 1.
            hear: what nodes hear, where they are not all here; None is all of `graph`.
        """
        neuron, gate = GraphNeuron(num_kinds=self.num_kinds), HaltGate(name="halt")
        hear = hear or (lambda hop, h_BND: graph.read(h_BND))
        h_BND, states = x_BND, [x_BND]
        for hop in range(hops):
            h_BND = neuron.update(h_BND, x_BND, hear(hop, h_BND))
            states.append(h_BND)
        if not self.halts:
            return Reasoning(h_BND, None)
        logits = [gate(h_BND, x_BND) for h_BND in states[:-1]]
        halt_BNK = halting(jnp.stack(logits, axis=-1))
        state_BNKD = jnp.stack(states, axis=2)
        share_BNK = halt_BNK.astype(x_BND.dtype)
        return Reasoning(jnp.einsum("BNK,BNKD->BND", share_BNK, state_BNKD), halt_BNK)
