"""Products of Pauli matrices against the matrices, and what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.config import UserError
from rtdlm.modules.quantum.gates import PAULIS
from rtdlm.modules.quantum.pauli import PauliSum, energy, expectations
from tests.modules.quantum.circuits import random_state

STRINGS = ["IIII", "ZIII", "IIIZ", "ZIZZ", "XIII", "IYIX", "YYIZ", "YYYX", "XZXZ", "YYYY"]


def matrix(string):
    return functools.reduce(np.kron, (PAULIS[letter] for letter in string))


def test_expectations_are_those_of_the_matrices():
    state = random_state(np.random.default_rng(0), 4)
    found = jax.jit(lambda state: expectations(state, STRINGS))(state)
    expected = [np.vdot(state, matrix(string) @ np.asarray(state)).real for string in STRINGS]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_sum_and_its_gradient_are_those_of_its_matrix():
    """For <s|H|s>, JAX's gradient by s is conj(2 H s)."""
    state = random_state(np.random.default_rng(1), 4)
    observable = PauliSum(tuple(np.linspace(-1, 2, len(STRINGS)).tolist()), tuple(STRINGS))
    whole = sum(w * matrix(s) for w, s in zip(*observable, strict=True))
    found, back = jax.jit(jax.value_and_grad(lambda state: energy(state, observable)))(state)
    np.testing.assert_allclose(found, np.vdot(state, whole @ np.asarray(state)).real, atol=1e-5)
    np.testing.assert_allclose(back, np.conj(2 * whole @ np.asarray(state)), atol=1e-5)


def test_no_strings_are_no_numbers():
    assert expectations(jnp.ones(2, jnp.complex64), []).shape == (0,)


@pytest.mark.parametrize("string", ["ZZ", "ZZZZ", "ZAZ", "xyz"])
def test_a_string_that_does_not_fit_is_refused(string):
    with pytest.raises(UserError, match=f"'{string}' is no product .* on 3 qubits"):
        expectations(jnp.ones(8, jnp.complex64), [string])
