"""What the steps of a controller's core share, change and leave behind; see `rtdlm.models.core`.

Axes: B batch, T time, D model, K steps, M modules to call.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rtdlm.models.block import Block, BlockInput, Stream
from rtdlm.models.called import Called
from rtdlm.modules.controller import ComputeController, CopyGate


class Spent(NamedTuple):
    """What was run for each token; float32."""

    steps_BT: jax.Array
    """Steps of the core."""
    confidence_BT: jax.Array
    """Log odds that the first choice is right, as said at the last step."""
    open_BT: jax.Array
    """Probability of not having halted by then; at most a half unless steps ran out."""
    calls_BTM: jax.Array | None = None
    """Times that it called each module; None where there is none to call."""


class AllExits(NamedTuple):
    """Every token's state after every step, for training."""

    x_KBTD: jax.Array
    halt_KBT: jax.Array
    confidence_KBT: jax.Array
    steps_BT: jax.Array
    """Float32; where each token would have stopped."""
    price_B: jax.Array
    choice_KBTM: jax.Array | None = None
    """Logits of what to call in the step after; None where there is nothing to call."""
    calls_BT: jax.Array | None = None
    """Float32; modules that each token called before it stopped."""


class Given(NamedTuple):
    """What stays the same through all steps; made once."""

    stream: Stream
    inject_BTD: jax.Array
    opens_BTD: jax.Array
    input: BlockInput
    blocks: tuple[Block, ...]
    gate: CopyGate
    controller: ComputeController
    called: Called


class State(NamedTuple):
    """What a step changes, apart from keys and values."""

    x_BTD: jax.Array
    log_open_BT: jax.Array
    """Of the probability of not having halted."""
    active_BT: jax.Array
    steps_BT: jax.Array
    confidence_BT: jax.Array
    choice_BTM: jax.Array | None = None
    """Logits of what to call in the next step; None where there is nothing to call."""
    calls_BTM: jax.Array | None = None
    """Times that each token called each module."""


def spent(state: State) -> Spent:
    """What was run to come to `state`."""
    open_BT = jnp.exp(state.log_open_BT)
    return Spent(state.steps_BT, state.confidence_BT, open_BT, state.calls_BTM)


def counted(state: State, on_BTM: jax.Array) -> State:
    """`state` that counts the calls of `on_BTM`, a bool."""
    assert state.calls_BTM is not None
    return state._replace(calls_BTM=state.calls_BTM + on_BTM.astype(jnp.float32))
