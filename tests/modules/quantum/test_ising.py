"""The Ising ring: its closed form against its matrix, and VQE against the closed form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from rtdlm.modules.quantum.gates import PAULIS
from rtdlm.modules.quantum.ising import ising_ansatz, ising_ground_energy, ising_ring
from rtdlm.modules.quantum.pauli import energy
from rtdlm.modules.quantum.statevector import run


def test_the_ring_is_this_sum():
    strings = ("ZZI", "IZZ", "ZIZ", "XII", "IXI", "IIX")
    assert ising_ring(3, field=0.5) == ((-1.0,) * 3 + (-0.5,) * 3, strings)


@pytest.mark.parametrize("field", [0.5, 1.0])
def test_the_closed_form_is_the_lowest_eigenvalue(field):
    ring = ising_ring(6, field=field)
    whole = sum(
        weight * functools.reduce(np.kron, (PAULIS[letter] for letter in string))
        for weight, string in zip(*ring, strict=True)
    )
    lowest = np.linalg.eigvalsh(whole)[0]
    np.testing.assert_allclose(ising_ground_energy(6, field=field), lowest, rtol=1e-12)


@pytest.mark.parametrize("num_qubits", [4, 8])
def test_vqe_finds_the_ground_state_of_the_critical_ring(num_qubits):
    ring, exact = ising_ring(num_qubits, field=1.0), ising_ground_energy(num_qubits, field=1.0)
    begin, rounds = ising_ansatz(num_qubits, num_rounds=num_qubits // 2)
    with jax.enable_x64(True):
        plus = run(begin, state=jnp.zeros(2**num_qubits, jnp.complex128).at[0].set(1))

        @jax.jit
        def both(params):
            shaped = params.reshape(num_qubits // 2, 2)
            return jax.value_and_grad(lambda p: energy(run(rounds, p, state=plus), ring))(shaped)

        def value(params):
            found, back = both(jnp.asarray(params))
            return float(found), np.asarray(back).reshape(-1)

        start = np.random.default_rng(0).uniform(0, 1, num_qubits)
        found = scipy.optimize.minimize(
            value, start, jac=True, method="L-BFGS-B", options={"ftol": 1e-16, "gtol": 1e-10}
        )
    assert abs(found.fun - exact) <= 1e-10 * abs(exact)
