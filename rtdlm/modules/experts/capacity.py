"""Dispatch with a capacity: each expert works on a queue of bounded length a row.

Tokens are gathered into each expert's queue, the experts run as one batched product over their
queues, and results are gathered back: work is k * capacity_factor token passes, whatever the
number of experts. What finds its queue full gets zeros.

Axes: B batch, T time, D model, E experts, C capacity, J choices.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from rtdlm.modules.experts.router import Routing


def through_queues(
    x_BTD: jax.Array,
    routing: Routing,
    run: Callable[[jax.Array], jax.Array],
    *,
    num_experts: int,
    capacity: int,
) -> jax.Array:
    """`[B, T, J, D]`: what every choice's expert makes of the token; `run` maps `[B, E, C, D]`."""
    assert routing.slot_BTJ is not None
    queues_BECD = _gather(x_BTD, routing, num_experts=num_experts, capacity=capacity)
    results_BECD = run(queues_BECD)
    rows = jnp.arange(x_BTD.shape[0])[:, None, None]
    return results_BECD.at[rows, routing.expert_BTJ, routing.slot_BTJ].get(
        mode="fill", fill_value=0
    )


def _gather(x_BTD: jax.Array, routing: Routing, *, num_experts: int, capacity: int) -> jax.Array:
    """Each expert's queue of tokens; empty places hold zeros."""
    assert routing.slot_BTJ is not None
    batch, length, _ = x_BTD.shape
    rows = jnp.arange(batch)[:, None, None]
    tokens_BTJ = jnp.broadcast_to(jnp.arange(length)[None, :, None], routing.slot_BTJ.shape)
    # A queue is a table of token places; `length` marks an empty place.
    source_BEC = jnp.full((batch, num_experts, capacity), length, jnp.int32)
    source_BEC = source_BEC.at[rows, routing.expert_BTJ, routing.slot_BTJ].set(
        tokens_BTJ, mode="drop"
    )
    return x_BTD.at[rows, source_BEC].get(mode="fill", fill_value=0)
