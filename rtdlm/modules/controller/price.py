"""The price of compute: what a unit of cost must save in loss to be spent.

Training shows the controller prices of all sizes, so that afterwards one number moves the whole
trade of loss for compute, without training again. A budget is met by the price at which the mean
cost is just within it, found by bisection: with decisions that do not look at one another's cost
the mean falls with the price.
"""

from collections.abc import Callable
from math import exp, log
from typing import NamedTuple

import jax

ROUNDS = 18
"""Halvings of the range of log prices."""


class Priced(NamedTuple):
    """A price, and what is then spent."""

    price: float
    cost: float
    binding: bool
    """False where the lowest price spends no more than the budget."""


def sample_prices(key: jax.Array, shape: tuple[int, ...], *, low: float, high: float) -> jax.Array:
    """Float32 prices whose logs are uniform from `low` to `high`."""
    spread = jax.random.uniform(key, shape, minval=log(low), maxval=log(high))
    return jax.numpy.exp(spread)


def price_for(
    budget: float, cost_at: Callable[[float], float], *, low: float, high: float
) -> Priced:
    """The lowest price found at which `cost_at(price)`, a mean, is at most `budget`.

    Where even `high` costs more, `high` with its cost: the caller sees that it is too much.
    """
    cost = cost_at(low)
    if cost <= budget:
        return Priced(low, cost, binding=False)
    cost = cost_at(high)
    if cost > budget:
        return Priced(high, cost, binding=True)
    below, above, found = log(low), log(high), Priced(high, cost, binding=True)
    for _ in range(ROUNDS):
        middle = (below + above) / 2
        price = exp(middle)
        cost = cost_at(price)
        if cost <= budget:
            above, found = middle, Priced(price, cost, binding=True)
        else:
            below = middle
    return found
