"""What can be reached, how far it is and what hangs together: hops over a graph without weights.

    reached after k hops   r <- r or r A              over (or, and)
    distances              d <- min(d, 1 + d A)       over (min, +), one hop more each round
    components             c <- max(c, max over neighbours of c)

These are the answers that a reasoner is trained and judged by; tests hold them to networkx.

Axes: B batch, N nodes, M nodes.
"""

import jax
import jax.numpy as jnp

FAR = 2**30
"""Distance of what cannot be reached."""


def reachable(edge_BNM: jax.Array, *, hops: int) -> jax.Array:
    """bool `[B, N, M]`: m can be reached from n in at most `hops` steps along edges n -> m."""
    nodes = edge_BNM.shape[-1]
    start = jnp.broadcast_to(jnp.eye(nodes, dtype=bool)[None], edge_BNM.shape)

    def step(_: int, reached: jax.Array) -> jax.Array:
        counts = jnp.einsum(
            "BNK,BKM->BNM", reached.astype(jnp.float32), edge_BNM.astype(jnp.float32)
        )
        return reached | (counts > 0)

    return jax.lax.fori_loop(0, hops, step, start)


def distances(edge_BNM: jax.Array) -> jax.Array:
    """int32 `[B, N, M]`: fewest steps from n to m, 0 for n itself, `FAR` where there is no path."""
    nodes = edge_BNM.shape[-1]
    start = jnp.where(jnp.eye(nodes, dtype=bool)[None], 0, jnp.full(edge_BNM.shape, FAR))
    edge = edge_BNM.astype(jnp.float32)

    def step(hop: int, distance: jax.Array) -> jax.Array:
        near = (distance < FAR).astype(jnp.float32)
        found = jnp.einsum("BNK,BKM->BNM", near, edge) > 0
        return jnp.where(found & (distance == FAR), hop + 1, distance)

    return jax.lax.fori_loop(0, nodes - 1, step, start)


def components(edge_BNM: jax.Array) -> jax.Array:
    """int32 `[B, N]`: the largest number of a node that n hangs together with, whichever way."""
    nodes = edge_BNM.shape[-1]
    either = edge_BNM | jnp.swapaxes(edge_BNM, 1, 2) | jnp.eye(nodes, dtype=bool)[None]
    start = jnp.broadcast_to(jnp.arange(nodes)[None], edge_BNM.shape[:2])

    def step(_: int, label: jax.Array) -> jax.Array:
        return jnp.max(jnp.where(either, label[:, None], -1), axis=-1)

    return jax.lax.fori_loop(0, nodes - 1, step, start)
