"""Trains one task's core and controller with one seed, and judges them on rows that chose nothing.

Prices are chosen on one batch, the calibration, and everything is told of another, the test.

Axes: N rows, S exits.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.child import Timer
from rtdlm.modules.controller import price_for
from studies import small_nets
from studies.controlled import (
    Params,
    Task,
    all_exits,
    at_depth,
    deployed,
    exits_at,
    is_right,
    net_of,
)
from studies.controlled_trainer import Trainer
from studies.controlled_training import HIGH, LOW
from studies.controller_costs import Costs
from studies.controller_table import Judged, Rows, Table

CALIBRATION, TEST = 2**31, 2**31 + 1
"""Keys that no seed of training draws from."""


class Ran(NamedTuple):
    """One task with one seed."""

    thorough: float
    """Right with all steps."""
    loose: Judged
    budgets: Mapping[int, Judged]
    """By the budget [% of all steps' operations]."""
    trained: float
    """Right where nets were trained for the depths about the binding budget."""
    same: float
    """Share of rows that take the same exit deployed as in a full run."""
    apart: float
    """Largest difference between the scores of these."""
    faster: float
    """Wall time of all steps over that of the deployed run."""
    costs: Costs
    cpu: float
    """Of training core and controller, compiling included [seconds]."""
    parameters: int


class Judge:
    """Compiles a task once for all seeds."""

    def __init__(
        self, task: Task, trainer: Trainer, *, rows: int, budgets: Sequence[int], binding: int
    ) -> None:
        """
        Args:
            task: to be learned.
            trainer: of this task.
            rows: of calibration and of the test.
            budgets: to be met [% of all steps' operations].
            binding: the one of them at which nets of a fixed depth are trained.
        """
        self._task, self._trainer, self._rows = task, trainer, rows
        self._budgets, self._binding = budgets, binding
        self._net = net_of(task)
        self._at = jax.jit(partial(exits_at, task, self._net))
        self._all = jax.jit(partial(all_exits, task, self._net))
        self._deployed = jax.jit(partial(deployed, task, self._net))
        self._thorough = jax.jit(partial(at_depth, task, self._net, depth=task.num_steps))

    def __call__(self, seed: int) -> Ran:
        """One seed."""
        timer = Timer()
        params, costs = self._trainer.controlled(seed)
        cpu = timer.read().cpu
        calibration, test = self._exits(params, CALIBRATION), self._exits(params, TEST)
        table = Table(partial(self._at, params), costs, calibration, test)
        budgets = {
            budget: table.judged(price_for(budget / 100, table.cost, low=LOW, high=HIGH))
            for budget in self._budgets
        }
        loose = table.loose()
        return Ran(
            thorough=float(test.right_NS[:, -1].mean()),
            loose=table.judged(loose),
            budgets=budgets,
            trained=self._trained(seed, costs.depth_at(budgets[self._binding].cost)),
            **self._run(params, loose.price),
            costs=costs,
            cpu=cpu,
            parameters=small_nets.parameters(params),
        )

    def _exits(self, params: Params, key: int) -> Rows:
        examples = self._task.draw(jax.random.key(key), self._rows)
        exits = self._all(params, examples)
        right_SN = jax.vmap(is_right, (0, None))(exits.scores, examples.answer)
        difficulty_N = np.asarray(self._task.difficulty(examples))
        return Rows(exits.summary_SNF, np.asarray(right_SN).T, difficulty_N)

    def _trained(self, seed: int, depth: float) -> float:
        """Right at a depth, of a net trained for it, or of the two that it lies between."""
        examples = self._task.draw(jax.random.key(TEST), self._rows)
        low, high = int(np.floor(depth)), int(np.ceil(depth))
        right = {d: self._trainer.right_at_depth(seed, d, examples) for d in {low, high}}
        return right[low] + (depth - low) * (right[high] - right[low])

    def _run(self, params: Params, price: float) -> dict[str, float]:
        """The deployed run beside a full one: the same answers, in less time."""
        examples = self._task.draw(jax.random.key(TEST), self._rows)
        run = partial(self._deployed, params, examples, price=jnp.float32(price))
        found, full = run(), self._all(params, examples)
        exit_N, _ = self._at(params, full.summary_SNF, price=jnp.float32(price))
        same_N = exit_N == found.exit_N
        away = jnp.abs(full.scores[exit_N, jnp.arange(self._rows)] - found.scores)
        away_N = jnp.max(away.reshape(self._rows, -1), axis=1)
        return {
            "same": float(jnp.mean(same_N)),
            "apart": float(jnp.max(jnp.where(same_N, away_N, 0.0))),
            "faster": _wall(partial(self._thorough, params, examples)) / _wall(run),
        }


def _wall(run: Any, *, repeats: int = 3) -> float:
    """The shortest of some runs after one that compiles [seconds]."""
    jax.block_until_ready(run())
    found = []
    for _ in range(repeats):
        timer = Timer()
        jax.block_until_ready(run())
        found.append(timer.read().wall)
    return min(found)
