"""What the parts of a controlled net cost, counted by the compiler, and shares of a thorough run.

    thorough      begin + R step + read
    depth d       begin + d step + read
    stopping at t begin + t step + min(t, R - 1) gate + read        the last step asks no gate

The gate is the controller and the summary that it reads.

Axes: N rows, S exits.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from studies.controlled import Net, Params, Task

ROWS = 512
"""Over which the operations of the parts are counted."""


class Costs(NamedTuple):
    """Floating-point operations of a row."""

    begin: float
    step: float
    gate: float
    read: float
    num_steps: int

    @property
    def thorough(self) -> float:
        """Of all steps, without a gate [operations]."""
        return self.begin + self.num_steps * self.step + self.read

    def in_steps(self) -> np.ndarray:
        """`[S]`: of stopping at each exit, gates included, what all need left out [steps]."""
        number_S = np.arange(1, self.num_steps + 1)
        gates_S = np.minimum(number_S, self.num_steps - 1)
        return (number_S + gates_S * self.gate / self.step).astype(np.float32)

    def stopping(self, exit_N: ArrayLike) -> np.ndarray:
        """Of rows that took these exits, from 0 [share of thorough]."""
        steps_N = self.in_steps()[np.asarray(exit_N)]
        return (self.begin + self.read + self.step * steps_N) / self.thorough

    def depth_at(self, share: float) -> float:
        """The depth, not whole, whose cost is this share of thorough, within what there is."""
        depth = (share * self.thorough - self.begin - self.read) / self.step
        return float(np.clip(depth, 1, self.num_steps))


def counted(task: Task, net: Net, params: Params) -> Costs:
    """The costs of a task's net, of whose parameters the shapes are enough."""
    number = jnp.int32(1)
    examples = jax.eval_shape(lambda key: task.draw(key, ROWS), jax.random.key(0))
    given = jax.eval_shape(net.begin, params, examples)
    own = jax.eval_shape(lambda given: task.take(given, jnp.arange(ROWS)), given)
    state = jax.eval_shape(net.start, params, own)

    def step(params: Params, own: Any, state: Any) -> Any:
        return net.step(params, own, state, number)[0]

    def gated(params: Params, own: Any, state: Any) -> Any:
        state, summary_NF = net.step(params, own, state, number)
        ones_N = jnp.ones(ROWS)
        return state, net.decide(params, summary_NF, number, ones_N, ones_N).halt_N

    one_step = _operations(step, params, own, state)
    return Costs(
        begin=_operations(net.begin, params, examples),
        step=one_step,
        gate=_operations(gated, params, own, state) - one_step,
        read=_operations(net.read, params, own, state),
        num_steps=task.num_steps,
    )


def _operations(function: Any, *given: Any) -> float:
    analysis = jax.jit(function).lower(*given).compile().cost_analysis()
    assert analysis is not None
    return float(analysis["flops"]) / ROWS


def at_one_depth(right_S: ArrayLike, depth: float) -> float:
    """The share of right answers if all stop at a depth, or at the two that it lies between."""
    low = int(depth)
    right_S = np.asarray(right_S, np.float64)
    if low == len(right_S):
        return float(right_S[-1])
    return float(right_S[low - 1] + (depth - low) * (right_S[low] - right_S[low - 1]))
