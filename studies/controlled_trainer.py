"""Trains nets of one task for every seed: a core with its controller, or a net of one depth.

Each kind of net, a core or a depth, has the same learning rates to choose from, of which the first
seed takes the one that ends with the smallest loss.

Axes: S exits.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from studies.controlled import Params, Task, at_depth, is_right, net_of
from studies.controlled_training import (
    Pool,
    core_loss,
    depth_loss,
    divided,
    fit,
    gate_loss,
    pool_of,
)
from studies.controller_costs import Costs, counted


class Size(NamedTuple):
    """How long nets are trained."""

    steps: int
    batch: int
    gate_steps: int
    gate_batch: int
    pool: int
    """Rows that the controller learns from."""
    rates: Sequence[float]
    """Of learning, for cores and nets of one depth: the first seed of each chooses."""
    gate_rate: float


class Trainer:
    """Compiles the training of a task once for all seeds."""

    def __init__(self, task: Task, size: Size) -> None:
        self._task, self._size, self._net = task, size, net_of(task)
        self._fits: dict[int | None, Any] = {}
        self._rates: dict[int | None, float] = {}
        self._pool = jax.jit(partial(pool_of, task, self._net))
        self._gate = jax.jit(self._fit_gate)

    def controlled(self, seed: int) -> tuple[Params, Costs]:
        """A core and its controller, and what they cost."""
        params = self._fitted(seed, depth=None)
        costs = counted(self._task, self._net, params)
        pool = self._pool(params, self._task.draw(_key(seed, 1), self._size.pool))
        own, core = divided(params)
        own = self._gate(own, core, pool, jnp.asarray(costs.in_steps()), _key(seed, 2))
        return hk.data_structures.merge(core, own), costs

    def right_at_depth(self, seed: int, depth: int, examples: Any) -> float:
        """Share of right answers of a net that was trained for one depth, as long as a core."""
        params = self._fitted(seed, depth=depth)
        scores = jax.jit(partial(at_depth, self._task, self._net, depth=depth))(params, examples)
        return float(jnp.mean(is_right(scores, examples.answer)))

    def _fitted(self, seed: int, *, depth: int | None) -> Params:
        """A net of one depth, or a core; the first seed chooses the learning rate."""
        if depth not in self._fits:
            self._fits[depth] = jax.jit(partial(self._fit, depth))
        if depth not in self._rates:
            ends = {rate: self._fits[depth](_key(0, 0), rate)[1] for rate in self._size.rates}
            self._rates[depth] = min(ends, key=lambda rate: float(ends[rate]))
        params: Params = self._fits[depth](_key(seed, 0), self._rates[depth])[0]
        return params

    def _fit(self, depth: int | None, key: jax.Array, rate: jax.Array) -> tuple[Params, jax.Array]:
        """Parameters, and the loss over the last tenth of the steps."""
        size, task, net = self._size, self._task, self._net
        loss = (
            core_loss(task, net, batch=size.batch)
            if depth is None
            else depth_loss(task, net, batch=size.batch, depth=depth)
        )
        start = net.init(key, task.draw(key, size.batch))
        params, values = fit(loss, start, key, steps=size.steps, rate=rate)
        return params, jnp.mean(values[-max(1, size.steps // 10) :])

    def _fit_gate(
        self, own: Params, core: Params, pool: Pool, cost_S: jax.Array, key: jax.Array
    ) -> Params:
        size = self._size
        loss = gate_loss(self._task, self._net, core, pool, cost_S, batch=size.gate_batch)
        return fit(loss, own, key, steps=size.gate_steps, rate=size.gate_rate)[0]


def _key(seed: int, stage: int) -> jax.Array:
    return jax.random.fold_in(jax.random.key(seed), stage)
