"""Prices at which strategies of a compute controller keep to their budgets.

The mean number of steps, and of calls of modules, falls with the price, so each budget has a price,
found by bisection on text that is neither trained on yet nor evaluated on. A price is a number
beside the parameters: finding another needs no training.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rtdlm.config import STRATEGIES
from rtdlm.data.batch import Batch
from rtdlm.evaluation.heldout import evaluate, make_eval_step
from rtdlm.models import TMSModel
from rtdlm.models.contracts import call_costs
from rtdlm.models.core import CORE, PRICED
from rtdlm.models.tms import Params
from rtdlm.modules.controller import Priced, price_for
from rtdlm.parallel import batch_sharding, put

BATCHES = 2
"""Batches that prices are found on."""
RANGE = 30.0
"""How far beyond the prices of training they are looked for."""


class Pricing:
    """Finds prices for one model; compiled once."""

    def __init__(self, model: TMSModel, *, mesh: Mesh) -> None:
        """`model` has a compute controller."""
        # One program: the price that it reads is set among its parameters.
        own = model.config.replace(controller_strategy=PRICED[0], controller={"price": None})
        self._model = TMSModel(own)
        self._step = make_eval_step(self._model, mesh)
        self._sharding = batch_sharding(mesh)

    def price_for(self, params: Params, batches: Sequence[Batch], *, budget: float) -> Priced:
        """The price for a mean of `budget` of all steps and calls, by their costs [fraction]."""
        placed = [put(batch, self._sharding) for batch in batches]
        steps, costs = self._model.config.controller.steps, call_costs(self._model.config)
        most = steps + (steps - 1) * sum(costs)
        low, high = self._model.config.controller.prices

        def cost_at(price: float) -> float:
            found = evaluate(self._step, with_price(params, PRICED[0], price), placed)
            assert found.steps is not None
            called = zip(costs, found.calls or (), strict=True)
            return (found.steps + sum(cost * number for cost, number in called)) / most

        return price_for(budget, cost_at, low=low / RANGE, high=high * RANGE)

    def priced(self, params: Params, batches: Sequence[Batch]) -> Params:
        """`params` with the price of every strategy that has one."""
        for strategy in PRICED:
            found = self.price_for(params, batches, budget=STRATEGIES[strategy].budget)
            params = with_price(params, strategy, found.price)
        return params


def with_price(params: Params, strategy: str, price: float) -> Params:
    """`params` with another price of a strategy."""
    own = params[CORE]
    logs = jnp.asarray(own["log_prices"]).at[PRICED.index(strategy)].set(float(np.log(price)))
    return {**params, CORE: {**own, "log_prices": logs}}


def pricing_of(model: TMSModel, *, mesh: Mesh) -> Callable[[Any, Sequence[Batch]], Any]:
    """What finds a model's prices; the identity where it has no controller."""
    if not model.config.use_compute_controller:
        return lambda params, _: params
    return Pricing(model, mesh=mesh).priced
