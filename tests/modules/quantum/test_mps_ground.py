"""Sweeps to the ground state against whole matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.config import UserError
from rtdlm.modules.quantum.mps import MPS, mps_canonical, mps_to_statevector
from rtdlm.modules.quantum.mps_ground import ground_state, ising_chain

SITES = 6


def whole(operator_NABPP: np.ndarray) -> np.ndarray:
    """The matrix that a product of matrices stands for."""
    found = {0: np.eye(1)}
    for site in operator_NABPP:
        found = {
            b: sum(np.kron(left, site[a, b]) for a, left in found.items())
            for b in range(site.shape[1])
        }
    return found[len(found) - 1]


def start(*, max_bond: int, dtype: type) -> MPS:
    rng = np.random.default_rng(0)
    tensors = rng.normal(size=(SITES, max_bond, 2, max_bond))
    return mps_canonical(MPS(jnp.asarray(tensors, dtype)))


@jax.enable_x64(True)
@pytest.mark.parametrize(("max_bond", "least", "most"), [(8, -1e-13, 1e-13), (3, 1e-6, 1e-2)])
def test_an_ising_chain(max_bond: int, least: float, most: float) -> None:
    """Found exactly with room, from above without; the state is what has the energy."""
    chain = ising_chain(SITES, field=0.7, dtype=jnp.float64)
    matrix = whole(np.asarray(chain))
    found = ground_state(start(max_bond=max_bond, dtype=jnp.float64), chain, num_sweeps=4)
    lowest = np.linalg.eigvalsh(matrix)[0]
    assert least < found.energy - lowest < most
    vector = np.asarray(mps_to_statevector(found.state))
    np.testing.assert_allclose(vector @ matrix @ vector, found.energy)
    np.testing.assert_allclose(np.linalg.norm(vector), 1)
    assert (found.discarded_E.max() > 1e-9) == (max_bond == 3)


def test_the_chain_is_the_hamiltonian_it_says() -> None:
    x, z = np.array([[0, 1], [1, 0]]), np.diag([1, -1])
    found = whole(np.asarray(ising_chain(3, field=0.5, dtype=jnp.float32)))
    one = np.eye(2)

    def product(*factors: np.ndarray) -> np.ndarray:
        return np.kron(np.kron(factors[0], factors[1]), factors[2])

    wanted = -product(x, x, one) - product(one, x, x)
    wanted = wanted - 0.5 * (product(z, one, one) + product(one, z, one) + product(one, one, z))
    np.testing.assert_array_equal(found, wanted)


@jax.enable_x64(True)
def test_a_complex_operator_that_differs_from_site_to_site() -> None:
    """H = sum_i h_i with a complex Hermitian h_i on each neighbouring pair, and few of Krylov."""
    rng = np.random.default_rng(1)
    singles = rng.normal(size=(2, SITES, 2, 2)) + 1j * rng.normal(size=(2, SITES, 2, 2))
    singles = singles + singles.conj().swapaxes(-1, -2)
    operator = np.zeros((SITES, 3, 3, 2, 2), complex)
    operator[:, 0, 0] = operator[:, 2, 2] = np.eye(2)
    operator[:, 0, 1], operator[:, 1, 2], operator[:, 0, 2] = singles[0], singles[1], singles[0]
    found = ground_state(
        start(max_bond=8, dtype=jnp.complex128), jnp.asarray(operator), num_sweeps=8, num_krylov=3
    )
    np.testing.assert_allclose(found.energy, np.linalg.eigvalsh(whole(operator))[0], rtol=1e-10)


def test_an_operator_of_another_length_is_refused() -> None:
    chain = ising_chain(SITES + 1, field=1.0, dtype=jnp.float32)
    with pytest.raises(UserError, match="operator has 7 sites and the state 6"):
        ground_state(start(max_bond=2, dtype=jnp.float32), chain, num_sweeps=1)
