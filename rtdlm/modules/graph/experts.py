"""Experts chosen by a node together with its neighbours: routing by the graph's structure.

    l'_n = l_n + mean over r of sum_m A_r[n, m] l_m        then experts as always

Neighbours agree on their experts where the graph says that they belong together; without edges it
is the plain router.

Axes: B batch, R edge types, N nodes, E experts, D features.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from rtdlm.modules.graph.graph import Graph

Experts = Callable[..., tuple[jax.Array, Any]]
"""(x `[B, N, D]`, weights_BT, spread) -> (y `[B, N, D]`, statistics), such as `SparseExperts`."""


def with_neighbours(graph: Graph, logits_BME: jax.Array, own_BNE: jax.Array) -> jax.Array:
    """`own_BNE` and what its neighbours' `logits_BME` are on average."""
    return own_BNE + jnp.mean(graph.read(logits_BME), axis=1)


class GraphMoE:
    """A layer of experts over the nodes of a graph; its parameters are the experts' own."""

    def __init__(self, experts: Experts) -> None:
        """`experts` chooses by logits and lets `spread` change them first."""
        self.experts = experts

    def __call__(
        self, x_BND: jax.Array, graph: Graph, *, weights_BN: jax.Array
    ) -> tuple[jax.Array, Any]:
        """`[B, N, D]` -> `[B, N, D]` and the experts' statistics; weight 0 is padding."""

        def spread(logits_BNE: jax.Array) -> jax.Array:
            return with_neighbours(graph, logits_BNE, logits_BNE)

        return partial(self.experts, spread=spread)(x_BND, weights_BT=weights_BN)
