"""What is read off a state: probabilities, samples, and measurements in mid-circuit.

P(m) = sum_w |s[m, w]|^2, with the rows m those of the measured qubits. A measurement draws m, and
leaves s[m] / sqrt(P(m)) in its row and nothing in the others. All of it runs in `jit` and `vmap`.

Axes: N = 2^n amplitudes, M = 2^m outcomes of m qubits, S samples.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rtdlm.modules.quantum.axes import qubits_of, rows, unrows


class Measured(NamedTuple):
    """An outcome and what it leaves behind."""

    outcome: jax.Array
    """int32, in [0, M): the first measured qubit is the most significant bit."""
    state_N: jax.Array
    """Of norm 1."""


def probabilities(state_N: jax.Array, qubits: Sequence[int] | None = None) -> jax.Array:
    """`[M]`: of each outcome of `qubits`, the first the most significant bit; None is all.

    Raises:
        UserError: a qubit is named twice, or is not there.
    """
    rows_MW = rows(state_N, range(qubits_of(state_N)) if qubits is None else qubits)
    return jnp.sum(rows_MW.real**2 + rows_MW.imag**2, 1)


def sample(
    state_N: jax.Array, key: jax.Array, *, num_samples: int, qubits: Sequence[int] | None = None
) -> jax.Array:
    """Outcomes of as many runs, `[S]` int32 in [0, M), the state being the same in each.

    Raises:
        UserError: a qubit is named twice, or is not there.
    """
    sums = [probabilities(state_N, qubits)]
    while len(sums[-1]) > 1:
        sums.append(sums[-1].reshape(-1, 2).sum(axis=1))
    outcome_S = jnp.zeros(num_samples, jnp.int32)
    # Bit by bit: sums of 2^n numbers are rounded, and a search among them would now and then find
    # what cannot happen.
    for place, half_K in enumerate(reversed(sums[:-1])):
        own = jax.random.uniform(jax.random.fold_in(key, place), (num_samples,), half_K.dtype)
        zero_S, one_S = half_K[2 * outcome_S], half_K[2 * outcome_S + 1]
        is_one_S = (own * (zero_S + one_S) >= zero_S) & (one_S > 0)
        outcome_S = 2 * outcome_S + is_one_S.astype(jnp.int32)
    return outcome_S


def measure(state_N: jax.Array, key: jax.Array, *, qubits: Sequence[int]) -> Measured:
    """Measures `qubits`, with the state collapsing.

    Raises:
        UserError: a qubit is named twice, or is not there.
    """
    outcome, left_MW = _collapsed(state_N, key, qubits)
    return Measured(outcome, unrows(left_MW, qubits))


def reset(state_N: jax.Array, key: jax.Array, *, qubits: Sequence[int]) -> jax.Array:
    """Measures `qubits` and sets them to 0, whatever came of it.

    Raises:
        UserError: a qubit is named twice, or is not there.
    """
    outcome, left_MW = _collapsed(state_N, key, qubits)
    return unrows(jnp.roll(left_MW, -outcome, axis=0), qubits)


def _collapsed(
    state_N: jax.Array, key: jax.Array, qubits: Sequence[int]
) -> tuple[jax.Array, jax.Array]:
    """The outcome, and the rows `[M, W]` that it leaves."""
    outcome = sample(state_N, key, num_samples=1, qubits=qubits)[0]
    rows_MW = rows(state_N, qubits)
    is_left_M = jnp.arange(len(rows_MW)) == outcome
    left_MW = jnp.where(is_left_M[:, None], rows_MW, jnp.zeros_like(rows_MW))
    norm = jnp.sqrt(jnp.sum(left_MW.real**2 + left_MW.imag**2))
    return outcome, left_MW / norm.astype(left_MW.dtype)
