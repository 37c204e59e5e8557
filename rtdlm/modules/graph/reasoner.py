"""Several hops over one graph with one set of weights, and as many as a node needs.

    h_0 = x;   h_(k+1) = neuron(h_k, x, A);   y = sum_k p_k h_k   (see `neuron` and `halt`)

or, with `block`, h_(k+1) = block(h_k, A), a transformer block whose attention goes along edges.

The number of hops is an argument and no part of the parameters: a reasoner that was trained with
three may be run with twelve. A caller may hold states of nodes that are not computed now, as a
language model does in decoding: `recall` then says what all nodes hold before each hop.

Axes: B batch, N nodes, M nodes that are read, D features, K hops (0 to the last).
"""

from collections.abc import Callable
from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from rtdlm.modules.graph.block import GraphTransformerBlock
from rtdlm.modules.graph.graph import Graph
from rtdlm.modules.graph.halt import HaltGate
from rtdlm.modules.graph.neuron import GraphNeuron
from rtdlm.modules.primitives import halting

Recall = Callable[[int, jax.Array], jax.Array]
"""(hop, states `[B, N, D]` before it) -> those of all nodes that may be read, `[B, M, D]`."""


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
    """Runs one `GraphNeuron`, or one transformer block, again and again."""

    def __init__(
        self,
        *,
        num_kinds: int,
        halts: bool,
        block: Callable[..., GraphTransformerBlock] | None = None,
        name: str = "reasoner",
    ) -> None:
        """
        Args:
            num_kinds: types of the graph's edges.
            halts: each node stops on its own.
            block: makes what takes the hops, given `num_kinds`; None is a `GraphNeuron`.
            name: module name, part of the parameters' paths.
        """
        super().__init__(name=name)
        self.num_kinds = num_kinds
        self.halts = halts
        self.block = block

    def __call__(
        self, x_BND: jax.Array, graph: Graph, *, hops: int, recall: Recall | None = None
    ) -> Reasoning:
        """
        Args:
            x_BND: what each node is given.
            graph: who reads whom.
            hops: rounds of messages, at least 1.
            recall: states of all that are read, where not all are here; None is `x_BND`'s.
        """
        take, gate = self._hop(), HaltGate(name="halt")
        recall = recall or (lambda hop, h_BND: h_BND)
        h_BND, states = x_BND, [x_BND]
        for hop in range(hops):
            h_BND = take(h_BND, x_BND, graph, recall(hop, h_BND))
            states.append(h_BND)
        if not self.halts:
            return Reasoning(h_BND, None)
        logits = [gate(h_BND, x_BND) for h_BND in states[:-1]]
        halt_BNK = halting(jnp.stack(logits, axis=-1))
        state_BNKD = jnp.stack(states, axis=2)
        share_BNK = halt_BNK.astype(x_BND.dtype)
        return Reasoning(jnp.einsum("BNK,BNKD->BND", share_BNK, state_BNKD), halt_BNK)

    @hk.transparent
    def _hop(self) -> Callable[..., jax.Array]:
        """(states, what nodes were given, graph, states of all that are read) -> states."""
        if self.block is not None:
            block = self.block(num_kinds=self.num_kinds)
            return lambda h_BND, x_BND, graph, all_BMD: block(h_BND, graph, read_BMD=all_BMD)
        neuron = GraphNeuron(num_kinds=self.num_kinds)
        return lambda h_BND, x_BND, graph, all_BMD: neuron.update(h_BND, x_BND, graph.read(all_BMD))
