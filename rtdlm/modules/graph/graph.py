"""Graphs as arrays, dense for few nodes and as lists of edges for many.

    Dense      weight[b, r, n, m]    how much node n reads node m over edges of type r
    EdgeList   one record an edge    target n, source m, type r, weight

A weight of 0 is no edge. Both forms give the same sums over neighbours; the dense one costs N^2 a
feature, the list one operation an edge.

Axes: B batch, R edge types, N reading nodes, M nodes that are read, E edges, D features, Q walkers.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Dense(NamedTuple):
    """Graphs of equal size with a weight for every pair of nodes."""

    weight_BRNM: jax.Array
    """float32, at least 0."""

    @property
    def num_kinds(self) -> int:
        """Edge types."""
        return self.weight_BRNM.shape[1]

    def read(self, x_BMD: jax.Array) -> jax.Array:
        """`[B, R, N, D]`: sum_m weight[r, n, m] x[m], in the format of `x_BMD`."""
        weight_BRNM = self.weight_BRNM.astype(x_BMD.dtype)
        return jnp.einsum("BRNM,BMD->BRND", weight_BRNM, x_BMD)

    def step(self, p_BQN: jax.Array) -> jax.Array:
        """`[B, Q, M]`: where walkers are after a step along the edges, sum_n p[n] A[n, m]."""
        return jnp.einsum("BQN,BRNM->BQM", p_BQN, self.weight_BRNM.astype(p_BQN.dtype))


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["target_BE", "source_BE", "kind_BE", "weight_BE"],
    meta_fields=["num_kinds", "num_nodes"],
)
@dataclass(frozen=True)
class EdgeList:
    """Graphs of equal size as lists of equal length; edges of weight 0 fill a list up."""

    target_BE: jax.Array
    """int32; the node that reads."""
    source_BE: jax.Array
    """int32; the node that is read."""
    kind_BE: jax.Array
    """int32; the edge's type."""
    weight_BE: jax.Array
    """float32, at least 0."""
    num_kinds: int
    num_nodes: int

    def read(self, x_BMD: jax.Array) -> jax.Array:
        """`[B, R, N, D]`: as `Dense.read`, by a sum over edges."""
        sent_BED = jnp.take_along_axis(x_BMD, self.source_BE[:, :, None], axis=1)
        sent_BED *= self.weight_BE[:, :, None].astype(x_BMD.dtype)
        return self.sum_at_targets(sent_BED)

    def step(self, p_BQN: jax.Array) -> jax.Array:
        """`[B, Q, M]`: as `Dense.step`."""

        def moved(p_QN: jax.Array, to_E: jax.Array, from_E: jax.Array, w_E: jax.Array) -> jax.Array:
            carried_EQ = (p_QN[:, from_E] * w_E[None]).T
            return jax.ops.segment_sum(carried_EQ, to_E, num_segments=self.num_nodes).T

        weight_BE = self.weight_BE.astype(p_BQN.dtype)
        return jax.vmap(moved)(p_BQN, self.source_BE, self.target_BE, weight_BE)

    def sum_at_targets(self, x_BED: jax.Array) -> jax.Array:
        """`[B, R, N, D]`: the sum of what edges of each type carry to each node."""
        slot_BE = self.kind_BE * self.num_nodes + self.target_BE
        slots = self.num_kinds * self.num_nodes

        def summed(x_ED: jax.Array, slot_E: jax.Array) -> jax.Array:
            return jax.ops.segment_sum(x_ED, slot_E, num_segments=slots)

        sums = jax.vmap(summed)(x_BED, slot_BE)
        return sums.reshape(-1, self.num_kinds, self.num_nodes, x_BED.shape[-1])


Graph = Dense | EdgeList


def to_edges(graph: Dense, *, num_edges: int) -> EdgeList:
    """The heaviest `num_edges` edges of each graph, in the order of type, reader and what is read.

    With fewer edges than that the list ends in edges of weight 0, so that enough is exact.
    """
    _, kinds, nodes, read = graph.weight_BRNM.shape
    assert nodes == read, "a list is of one set of nodes"
    flat_BP = graph.weight_BRNM.reshape(-1, kinds * nodes * nodes)
    _, place_BE = jax.lax.top_k(flat_BP, min(num_edges, flat_BP.shape[1]))
    place_BE = jnp.sort(place_BE, axis=1)
    return EdgeList(
        target_BE=place_BE // nodes % nodes,
        source_BE=place_BE % nodes,
        kind_BE=place_BE // (nodes * nodes),
        weight_BE=jnp.take_along_axis(flat_BP, place_BE, axis=1),
        num_kinds=kinds,
        num_nodes=nodes,
    )


def to_dense(edges: EdgeList) -> Dense:
    """The same graphs with a weight for every pair; edges that are there twice add up."""
    batch, nodes = edges.target_BE.shape[0], edges.num_nodes
    zeros = jnp.zeros((batch, edges.num_kinds, nodes, nodes), edges.weight_BE.dtype)
    row_B1 = jnp.arange(batch)[:, None]
    place = (row_B1, edges.kind_BE, edges.target_BE, edges.source_BE)
    return Dense(zeros.at[place].add(edges.weight_BE))
