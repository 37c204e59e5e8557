"""From scores of edges to a sparse graph that can still be learned.

    soft   = softmax(s) over all nodes that may be read
    sparse = softmax(s) over the m best of them, 0 elsewhere

    straight_through   sparse forward, the gradient of soft backward (arXiv 1308.3432): every edge
                       learns, those that were not chosen too
    top_k              sparse, forward and backward: chosen edges learn from one another
    dense              soft, forward and backward

A hard 0 or 1 for "above a threshold" would have no gradient at all, and the edges would stay as
they began. A node that may read none gets zeros.

Axes: B batch, R edge types, N reading nodes, M nodes that are read.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

LOWEST = -1e30

Select = Callable[[jax.Array, jax.Array, int], jax.Array]
"""(scores float32 `[B, R, N, M]`, bool `[B, N, M]` who may read whom, m) -> weights."""


def dense(score_BRNM: jax.Array, allowed_BNM: jax.Array, neighbours: int) -> jax.Array:
    """Softmax over all that may be read."""
    del neighbours
    return _softmax(score_BRNM, jnp.broadcast_to(allowed_BNM[:, None], score_BRNM.shape))


def top_k(score_BRNM: jax.Array, allowed_BNM: jax.Array, neighbours: int) -> jax.Array:
    """Softmax over the `neighbours` best that may be read; more where they are equal."""
    masked = jnp.where(allowed_BNM[:, None], score_BRNM, LOWEST)
    best, _ = jax.lax.top_k(jax.lax.stop_gradient(masked), min(neighbours, masked.shape[-1]))
    return _softmax(score_BRNM, allowed_BNM[:, None] & (masked >= best[..., -1:]))


def straight_through(score_BRNM: jax.Array, allowed_BNM: jax.Array, neighbours: int) -> jax.Array:
    """The values of `top_k` with the gradient of `dense`."""
    soft = dense(score_BRNM, allowed_BNM, neighbours)
    sparse = top_k(score_BRNM, allowed_BNM, neighbours)
    return _with_gradient_of(sparse, soft)


SELECTIONS: dict[str, Select] = {
    "straight_through": straight_through,
    "top_k": top_k,
    "dense": dense,
}


@jax.custom_vjp
def _with_gradient_of(value: jax.Array, other: jax.Array) -> jax.Array:
    """`value`, exactly; differentiating it differentiates `other`."""
    del other
    return value


_with_gradient_of.defvjp(
    lambda value, other: (value, None), lambda _, change: (jnp.zeros_like(change), change)
)


def _softmax(score_BRNM: jax.Array, chosen_BRNM: jax.Array) -> jax.Array:
    weight = jax.nn.softmax(jnp.where(chosen_BRNM, score_BRNM, LOWEST), axis=-1)
    return jnp.where(chosen_BRNM, weight, 0.0)
