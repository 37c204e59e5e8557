"""Dispatch with a capacity: each expert works on a queue of bounded length a row.

Tokens are gathered into each expert's queue, the experts run as one batched product over their
queues, and results are gathered back: work is k * capacity_factor token passes, whatever the
number of experts. What finds its queue full gets zeros.

Where experts lie on several devices (mesh axis `expert`, which splits rows too), all queues of an
expert travel to its device and back: two exchanges of all with all (GShard, arXiv 2006.16668).

Axes: B batch, T time, D model, E experts, C capacity, J choices.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from rtdlm.modules.experts.router import Routing
from rtdlm.parallel import axis_size, constrain


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
    results_BECD = _at_home(run(_with_experts(queues_BECD)))

    def back(results_ECD: jax.Array, expert_TJ: jax.Array, slot_TJ: jax.Array) -> jax.Array:
        return results_ECD.at[expert_TJ, slot_TJ].get(mode="fill", fill_value=0)

    return jax.vmap(back)(results_BECD, routing.expert_BTJ, routing.slot_BTJ)


def _with_experts(queues_BECD: jax.Array) -> jax.Array:
    """From the devices that have a row to those that have an expert."""
    if axis_size("expert") == 1:
        return queues_BECD
    queues_BECD = constrain(queues_BECD, "batch", None, None, None)
    return constrain(queues_BECD, ("data", "fsdp"), "expert", None, None)


def _at_home(results_BECD: jax.Array) -> jax.Array:
    """And back."""
    if axis_size("expert") == 1:
        return results_BECD
    results_BECD = constrain(results_BECD, ("data", "fsdp"), "expert", None, None)
    return constrain(results_BECD, "batch", None, None, None)


def _gather(x_BTD: jax.Array, routing: Routing, *, num_experts: int, capacity: int) -> jax.Array:
    """Each expert's queue of tokens; empty places hold zeros.

    A row at a time, so that rows stay on their devices.
    """

    def queue(x_TD: jax.Array, expert_TJ: jax.Array, slot_TJ: jax.Array) -> jax.Array:
        length = len(x_TD)
        tokens_TJ = jnp.broadcast_to(jnp.arange(length)[:, None], slot_TJ.shape)
        # A queue is a table of token places; `length` marks an empty place.
        source_EC = jnp.full((num_experts, capacity), length, jnp.int32)
        source_EC = source_EC.at[expert_TJ, slot_TJ].set(tokens_TJ, mode="drop")
        return x_TD.at[source_EC].get(mode="fill", fill_value=0)

    assert routing.slot_BTJ is not None
    return jax.vmap(queue)(x_BTD, routing.expert_BTJ, routing.slot_BTJ)
