"""A transformer block whose attention goes along edges: x + GATv2(norm x), then x + f(norm x).

Over the graph of all pairs it is a transformer without an order of nodes; over a sparse graph a
node hears its neighbours only, and L blocks reach L hops. In a language model it is what takes the
hops of a layer's graph with `graph.messages="attention"`.

Axes: B batch, N nodes, M nodes that are read, D features.
"""

import haiku as hk
import jax

from rtdlm.modules.graph.attention import GraphAttentionUnit
from rtdlm.modules.graph.graph import Graph
from rtdlm.modules.primitives import Projection, RMSNorm


class GraphTransformerBlock(hk.Module):
    """Pre-norm, with a squared-ReLU layer of `d_ff` features a node (arXiv 2109.08668)."""

    def __init__(
        self,
        *,
        num_heads: int,
        head_dim: int,
        d_ff: int,
        num_kinds: int = 1,
        out_scale: float = 1.0,
        name: str = "graph_block",
    ) -> None:
        """As for `GraphAttentionUnit`; `d_ff` is the hidden width of what each node thinks."""
        super().__init__(name=name)
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.d_ff = d_ff
        self.num_kinds = num_kinds
        self.out_scale = out_scale

    def __call__(
        self, x_BND: jax.Array, graph: Graph, *, read_BMD: jax.Array | None = None
    ) -> jax.Array:
        """`[B, N, D]` -> `[B, N, D]`; nodes read `read_BMD`, or one another where that is None."""
        unit = GraphAttentionUnit(
            num_heads=self.num_heads,
            head_dim=self.head_dim,
            num_kinds=self.num_kinds,
            out_scale=self.out_scale,
        )
        norm = RMSNorm(name="attention_norm")
        read_BMD = None if read_BMD is None else norm(read_BMD)
        x_BND += unit(norm(x_BND), graph, read_BMD=read_BMD)
        shape, scale = (x_BND.shape[-1], self.d_ff), self.out_scale
        up = Projection("BND,DF->BNF", shape=shape, name="up")
        down = Projection("BNF,FD->BND", shape=shape[::-1], scale=scale, name="down")
        hidden_BNF = jax.nn.relu(up(RMSNorm(name="feedforward_norm")(x_BND))) ** 2
        return x_BND + down(hidden_BNF)
