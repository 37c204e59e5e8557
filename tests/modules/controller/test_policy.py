"""REINFORCE and its regularisers against loops, closed forms and the exact gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.modules.controller import entropy, leave_one_out, reinforce, utilisation


def test_the_baseline_is_the_mean_of_the_other_samples() -> None:
    reward = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    found = leave_one_out(jnp.asarray(reward))
    for k, n in np.ndindex(5, 7):
        others = [reward[j, n] for j in range(5) if j != k]
        assert float(found[k, n]) == pytest.approx(reward[k, n] - np.mean(others), abs=1e-5)
    np.testing.assert_allclose(jnp.sum(found, axis=0), 0.0, atol=1e-5)


def test_one_sample_has_no_baseline() -> None:
    with pytest.raises(AssertionError, match="another sample"):
        leave_one_out(jnp.ones((1, 3)))


def test_the_gradient_is_that_of_the_expected_reward() -> None:
    """Two choices with rewards that differ by item; many samples against the exact slope."""
    samples, items = 4, 50_000
    logit, reward_2 = 0.4, jnp.array([1.0, -0.5])
    chosen_KN = jax.random.bernoulli(jax.random.key(0), jax.nn.sigmoid(logit), (samples, items))
    noise_KN = jax.random.normal(jax.random.key(1), (samples, items))
    reward_KN = reward_2[chosen_KN.astype(jnp.int32)] + noise_KN

    def surrogate(logit: jax.Array) -> jax.Array:
        log_KN = jnp.where(chosen_KN, jax.nn.log_sigmoid(logit), jax.nn.log_sigmoid(-logit))
        return reinforce(log_KN, reward_KN)

    share = 1 / (1 + np.exp(-logit))
    exact = -float(reward_2[1] - reward_2[0]) * share * (1 - share)
    # One standard deviation of this mean is about 0.002.
    assert float(jax.grad(surrogate)(logit)) == pytest.approx(exact, abs=0.01)


def test_rewards_do_not_learn() -> None:
    log_KN = jnp.log(jnp.full((3, 4), 0.5))
    reward_KN = jax.random.normal(jax.random.key(0), (3, 4))
    assert not jax.grad(lambda r: reinforce(log_KN, r))(reward_KN).any()
    assert jax.grad(lambda p: reinforce(p, reward_KN))(log_KN).any()


def test_entropy_of_even_and_of_certain_choices() -> None:
    even, certain = jnp.zeros((1, 4)), jnp.array([[90.0, 0.0, 0.0, 0.0]])
    assert float(entropy(even)[0]) == pytest.approx(np.log(4))
    assert float(entropy(certain)[0]) == pytest.approx(0.0, abs=1e-6)
    p = np.array([0.7, 0.2, 0.1])
    found = entropy(jnp.log(jnp.asarray(p, jnp.float32))[None] + 3.0)
    assert float(found[0]) == pytest.approx(-np.sum(p * np.log(p)), rel=1e-5)


def test_utilisation_is_of_the_mean_choice() -> None:
    decided = 100.0 * jnp.eye(4)
    assert float(utilisation(decided)) == pytest.approx(0.0, abs=1e-6)
    same = jnp.broadcast_to(decided[0], (6, 4))
    assert float(utilisation(same)) == pytest.approx(np.log(4), abs=1e-5)
    mixed = utilisation(decided[jnp.array([[0, 0, 1], [0, 0, 1]])])
    p = np.array([4, 2]) / 6
    assert float(mixed) == pytest.approx(np.log(4) + np.sum(p * np.log(p)), abs=1e-5)


def test_utilisation_raises_a_module_that_is_never_chosen() -> None:
    logit = jnp.broadcast_to(jnp.array([2.0, 2.0, -4.0]), (5, 3))
    slope = jax.grad(utilisation)(logit)
    assert (slope[:, 2] < 0).all() and (slope[:, :2] > 0).all()
