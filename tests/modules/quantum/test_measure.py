"""Probabilities against sums, samples against chi-square, collapse against its formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from rtdlm.config import UserError
from rtdlm.modules.quantum.measure import measure, probabilities, reset, sample
from tests.modules.quantum.circuits import random_state

STATE = random_state(np.random.default_rng(0), 5)
TENSOR = np.asarray(STATE).reshape([2] * 5)


def expected(qubits):
    others = tuple({*range(5)} - {*qubits})
    kept = (abs(TENSOR) ** 2).sum(others)
    return np.moveaxis(kept, np.argsort(np.argsort(qubits)), range(len(qubits))).reshape(-1)


@pytest.mark.parametrize("qubits", [(0,), (4, 1), (2, 0, 3), (3, 4, 0, 1, 2)])
def test_probabilities_are_sums_over_the_other_qubits(qubits):
    np.testing.assert_allclose(probabilities(STATE, qubits), expected(qubits), atol=1e-6)


def test_without_qubits_all_are_meant():
    np.testing.assert_allclose(probabilities(STATE), abs(TENSOR.reshape(-1)) ** 2, atol=1e-6)


@pytest.mark.parametrize("qubits", [None, (4, 1, 2)])
def test_samples_pass_chi_square(qubits):
    drawn = sample(STATE, jax.random.key(0), num_samples=20_000, qubits=qubits)
    shares = np.float64(expected(range(5) if qubits is None else qubits))
    counts = np.bincount(drawn, minlength=len(shares))
    assert drawn.dtype == jnp.int32 and len(counts) == len(shares)
    found = scipy.stats.chisquare(counts, shares / shares.sum() * counts.sum())
    assert found.pvalue > 0.01


def test_what_cannot_happen_is_not_drawn():
    state = jnp.zeros(16, jnp.complex64).at[jnp.asarray([3, 12])].set(0.5**0.5)
    drawn = sample(state, jax.random.key(1), num_samples=1000)
    assert {*np.asarray(drawn).tolist()} == {3, 12}


def test_a_measurement_collapses_in_jit_and_vmap():
    keys = jax.random.split(jax.random.key(2), 64)
    outcomes, left = jax.jit(jax.vmap(lambda key: measure(STATE, key, qubits=[3, 1])))(keys)
    assert {*np.asarray(outcomes).tolist()} == {0, 1, 2, 3}
    for outcome, state in zip(outcomes, left, strict=True):
        kept = np.zeros_like(TENSOR)
        at = (slice(None), outcome % 2, slice(None), outcome // 2)
        kept[at] = TENSOR[at]
        np.testing.assert_allclose(state, kept.reshape(-1) / np.linalg.norm(kept), atol=1e-6)


def test_outcomes_of_measurements_pass_chi_square():
    keys = jax.random.split(jax.random.key(3), 5000)
    outcomes = jax.jit(jax.vmap(lambda key: measure(STATE, key, qubits=[3, 1]).outcome))(keys)
    shares = np.float64(expected([3, 1]))
    counts = np.bincount(outcomes, minlength=4)
    found = scipy.stats.chisquare(counts, shares / shares.sum() * counts.sum())
    assert found.pvalue > 0.01


def test_what_is_reset_is_0_and_the_rest_as_measured():
    for number in range(8):
        key = jax.random.key(number)
        outcome, left = measure(STATE, key, qubits=[1])
        found = np.asarray(reset(STATE, key, qubits=[1])).reshape([2] * 5)
        np.testing.assert_array_equal(found[:, 1], 0)
        np.testing.assert_array_equal(found[:, 0], np.asarray(left).reshape([2] * 5)[:, outcome])


@pytest.mark.parametrize("qubits", [[5], [-1], [1, 1]])
def test_qubits_that_there_are_not_are_refused(qubits):
    with pytest.raises(UserError, match="of 5: name different ones, from 0 to 4"):
        measure(STATE, jax.random.key(0), qubits=qubits)


def test_a_state_of_no_qubits_is_refused():
    with pytest.raises(UserError, match=r"shape \(6,\): expected \[2\^n\]"):
        probabilities(jnp.ones(6, jnp.complex64))


def test_what_cannot_happen_is_not_drawn_of_many_amplitudes_either():
    """Sums of so many numbers are rounded; half of these amplitudes are 0."""
    drawn = jax.random.normal(jax.random.key(0), (2**17,))
    real = jnp.stack([drawn, jnp.zeros_like(drawn)], axis=1).reshape(-1)
    state = (real / jnp.linalg.norm(real)).astype(jnp.complex64)
    outcomes = sample(state, jax.random.key(1), num_samples=100_000)
    assert not (np.asarray(outcomes) % 2).any()
    keys = jax.random.split(jax.random.key(2), 20)
    left = jax.jit(jax.vmap(lambda key: measure(state, key, qubits=range(18)).state_N))(keys)
    np.testing.assert_allclose(np.linalg.norm(left, axis=1), 1.0, atol=1e-5)
