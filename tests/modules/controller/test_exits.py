"""Halting, exits and prices against NumPy loops and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.modules.controller import (
    Priced,
    best_exit,
    divergence_from_uniform,
    exit_loss,
    expected,
    median_exit,
    price_for,
    sample_prices,
    stays,
)
from rtdlm.modules.primitives import BOUND, bounded, halting, log_halting

ROWS, STEPS = 40, 7


def logits(seed: int = 0, *, steps: int = STEPS) -> jax.Array:
    return 2.5 * jax.random.normal(jax.random.key(seed), (ROWS, steps))


def shares(logit_S: np.ndarray) -> np.ndarray:
    """The probability of each exit, one step after another."""
    left, found = 1.0, []
    for logit in logit_S.astype(np.float64):
        stop = 1 / (1 + np.exp(-logit))
        found.append(left * stop)
        left *= 1 - stop
    return np.array([*found, left])


def test_probabilities_of_halting_are_those_of_a_loop_and_sum_to_one() -> None:
    found = halting(logits())
    np.testing.assert_allclose(found, [shares(row) for row in np.asarray(logits())], rtol=1e-5)
    np.testing.assert_allclose(jnp.sum(found, axis=-1), 1.0, atol=1e-6)
    np.testing.assert_allclose(jnp.exp(log_halting(logits())), found, rtol=1e-6)


def test_leading_axes_and_a_single_exit() -> None:
    stacked = logits().reshape(4, 10, STEPS)
    np.testing.assert_array_equal(halting(stacked).reshape(ROWS, -1), halting(logits()))
    np.testing.assert_array_equal(halting(jnp.zeros((3, 0))), np.ones((3, 1)))


def test_far_logits_keep_finite_logarithms() -> None:
    far = jnp.array([[500.0, -500.0, 500.0]])
    found = log_halting(far)
    assert jnp.isfinite(found).all()
    slope = jax.grad(lambda x: log_halting(bounded(x))[0, 2])(far)
    assert jnp.isfinite(slope).all()
    assert float(jnp.abs(bounded(far)).max()) == pytest.approx(BOUND)
    small = jnp.array([0.01, -0.02])
    np.testing.assert_allclose(bounded(small), small, rtol=1e-4)


def test_the_best_exit_is_found_by_trying_all_of_them() -> None:
    rng = np.random.default_rng(0)
    loss, price = rng.random((ROWS, STEPS)), np.exp(rng.normal(size=ROWS))
    cost = np.cumsum(rng.random((ROWS, STEPS)), axis=1)
    found = best_exit(*(jnp.asarray(x, jnp.float32) for x in (loss, cost, price)))
    for row in range(ROWS):
        totals = [loss[row, s] + price[row] * cost[row, s] for s in range(STEPS)]
        assert int(found[row]) == totals.index(min(totals))
    equal = jnp.zeros((1, STEPS))
    assert int(best_exit(equal, equal, jnp.ones(1))[0]) == 0


def test_losses_of_exits_are_those_of_a_loop() -> None:
    log_p = log_halting(logits())
    p = np.stack([shares(row) for row in np.asarray(logits())])
    rng = np.random.default_rng(1)
    exits, value = rng.integers(0, STEPS + 1, ROWS), rng.normal(size=p.shape)
    lost = [-np.log(p[row, exits[row]]) for row in range(ROWS)]
    np.testing.assert_allclose(exit_loss(log_p, jnp.asarray(exits)), lost, rtol=1e-4)
    mean = [sum(p[row, s] * value[row, s] for s in range(STEPS + 1)) for row in range(ROWS)]
    given = jnp.asarray(value, jnp.float32)
    np.testing.assert_allclose(expected(halting(logits()), given), mean, atol=1e-5)
    apart = [sum(x * np.log(x * (STEPS + 1)) for x in row) for row in p]
    np.testing.assert_allclose(divergence_from_uniform(log_p), apart, atol=1e-5)


def test_exits_that_are_equally_likely_have_no_divergence() -> None:
    stop = 1 / jnp.arange(STEPS + 1, 1, -1, dtype=jnp.float32)  # one of those that are left
    log_p = log_halting(jnp.log(stop / (1 - stop))[None])
    np.testing.assert_allclose(jnp.exp(log_p), 1 / (STEPS + 1), rtol=1e-5)
    assert float(divergence_from_uniform(log_p)[0]) == pytest.approx(0.0, abs=1e-6)


def test_the_median_exit_is_that_of_a_loop_and_of_stopping_step_by_step() -> None:
    logit = logits(3)
    found = median_exit(log_halting(logit))
    going, log_open = jnp.ones(ROWS, bool), jnp.zeros(ROWS)
    taken = np.full(ROWS, STEPS)
    for step in range(STEPS):
        log_open, goes_on = stays(log_open, logit[:, step])
        taken[np.asarray(going & ~goes_on)] = step
        going &= goes_on
    for row in range(ROWS):
        spent = np.cumsum(shares(np.asarray(logit[row])))
        by_hand = next(s for s in range(STEPS + 1) if s == STEPS or spent[s] >= 0.5)
        assert int(found[row]) == by_hand == taken[row]
    assert len(set(taken)) >= 4, "the rows stop at several exits"


def test_prices_are_in_their_range_and_their_logs_uniform() -> None:
    low, high = 0.02, 20.0
    price = np.asarray(sample_prices(jax.random.key(0), (20_000,), low=low, high=high))
    assert price.dtype == np.float32
    assert low * 0.999 <= price.min() and price.max() <= high * 1.001
    counts, _ = np.histogram(np.log(price), bins=10, range=(np.log(low), np.log(high)))
    # Twenty thousand in ten bins: 2,000 each, with a standard deviation of 42.
    assert np.abs(counts - 2000).max() < 220


def test_a_price_meets_the_budget_from_below_and_is_the_lowest_that_does() -> None:
    def mean_cost(price: float) -> float:
        return 8.0 / (1.0 + price)

    found = price_for(2.0, mean_cost, low=0.02, high=20.0)
    assert found.binding
    assert 1.999 <= found.cost <= 2.0
    assert found.cost == mean_cost(found.price)
    assert mean_cost(found.price * 0.999) > 2.0


def test_a_price_of_decisions_that_change_in_jumps_still_keeps_the_budget() -> None:
    def mean_cost(price: float) -> float:
        return 6.0 if price < 1.0 else 3.0

    found = price_for(4.0, mean_cost, low=0.02, high=20.0)
    assert found.cost == 3.0 and 1.0 <= found.price < 1.001


def test_a_budget_that_does_not_bind_and_one_that_cannot_be_met() -> None:
    def mean_cost(price: float) -> float:
        return 5.0 - price / 10

    assert price_for(5.0, mean_cost, low=0.1, high=10) == Priced(0.1, 4.99, binding=False)
    assert price_for(3.0, mean_cost, low=0.1, high=10) == Priced(10, 4.0, binding=True)
