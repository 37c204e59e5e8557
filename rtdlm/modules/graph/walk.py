"""Walkers on a graph: p_0 given, p_(k+1) = p_k A, with A learned or given.

With every node's weights summing to one p stays a distribution, and with one edge a node it is a
pointer that is followed (the linear chain of TensorLog, arXiv 1605.06523). The cost of a hop is one
operation an edge; how many hops are walked is no part of the parameters, so that more of them can
be walked than were trained.

Axes: B batch, Q walkers, N nodes, K hops.
"""

import jax
import jax.numpy as jnp

from rtdlm.modules.graph.graph import Graph


def walk(start_BQN: jax.Array, graph: Graph, *, hops: int) -> jax.Array:
    """`[B, K + 1, Q, N]`: where walkers are after 0, 1, ... `hops` steps."""

    def step(p_BQN: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        p_BQN = graph.step(p_BQN)
        return p_BQN, p_BQN

    _, after_KBQN = jax.lax.scan(step, start_BQN, None, length=hops)
    return jnp.concatenate([start_BQN[:, None], jnp.moveaxis(after_KBQN, 0, 1)], axis=1)


def after(walked_BKQN: jax.Array, hops_BQ: jax.Array) -> jax.Array:
    """`[B, Q, N]`: each walker after as many hops as `hops_BQ` (int32) says."""
    return jnp.take_along_axis(walked_BKQN, hops_BQ[:, None, :, None], axis=1)[:, 0]
