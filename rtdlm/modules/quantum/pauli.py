"""Expectation values of products of Pauli matrices, and of weighted sums of them.

A product P flips the qubits under X and Y and signs those under Y and Z; no matrix is made:

    <s|P|s> = i^y sum_b conj(s[b ^ flips]) (-1)^(ones of b under Y and Z) s[b]      y = how many Y

Products that flip the same qubits share conj(s[b ^ flips]) s[b]. Autodiff goes through.

Axes: N = 2^n amplitudes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rtdlm.config import UserError
from rtdlm.modules.quantum.axes import qubits_of


class PauliSum(NamedTuple):
    """A weighted sum of products, such as a Hamiltonian."""

    weights: tuple[float, ...]
    strings: tuple[str, ...]
    """A letter of IXYZ for every qubit, qubit 0 first."""


def expectations(state_N: jax.Array, strings: Sequence[str]) -> jax.Array:
    """The expectation value of each product, in [-1, 1], for a state of norm 1.

    Args:
        state_N: complex amplitudes.
        strings: a letter of IXYZ for every qubit each, qubit 0 first.

    Returns:
        `[len(strings)]`, float32 or float64.

    Raises:
        UserError: a string has another length or letter.
    """
    num_qubits = qubits_of(state_N)
    for string in strings:
        if len(string) != num_qubits or not {*string} <= {*"IXYZ"}:
            raise UserError(
                f"{string!r} is no product of Pauli matrices on {num_qubits} qubits: give a letter "
                "of I, X, Y and Z for each"
            )
    overlaps: dict[tuple[int, ...], jax.Array] = {}
    found = []
    for string in strings:
        flips = tuple(qubit for qubit, letter in enumerate(string) if letter in "XY")
        if flips not in overlaps:
            overlaps[flips] = _overlap(state_N, flips)
        sums = _signed_sum(overlaps[flips], [letter in "YZ" for letter in string])
        # Re(i^y z) without i^y: one of Re z, -Im z, -Re z, Im z.
        parts = (sums.real, -sums.imag, -sums.real, sums.imag)
        found.append(parts[string.count("Y") % 4])
    return jnp.stack(found) if found else jnp.zeros(0, state_N.real.dtype)


def energy(state_N: jax.Array, observable: PauliSum) -> jax.Array:
    """The expectation value of a weighted sum, a number."""
    values = expectations(state_N, observable.strings)
    return jnp.sum(jnp.asarray(observable.weights, values.dtype) * values)


def _overlap(state_N: jax.Array, flips: tuple[int, ...]) -> jax.Array:
    """conj(s[b ^ flips]) s[b]."""
    if not flips:
        return jax.lax.complex(state_N.real**2 + state_N.imag**2, jnp.zeros_like(state_N.real))
    flipped = state_N
    for qubit in flips:
        flipped = jnp.flip(flipped.reshape(2**qubit, 2, -1), 1).reshape(-1)
    return jnp.conj(flipped) * state_N


def _signed_sum(values_N: jax.Array, signed: Sequence[bool]) -> jax.Array:
    """The sum over all bits, with a minus for every 1 of a signed qubit; the last qubit first."""
    for is_signed in reversed(signed):
        pairs = values_N.reshape(-1, 2)
        values_N = pairs[:, 0] - pairs[:, 1] if is_signed else pairs[:, 0] + pairs[:, 1]
    return values_N[0]
