"""Some of a state's qubits as the rows of a matrix, and back.

Axes: N = 2^n amplitudes, M = 2^m rows for m chosen qubits, W = 2^(n - m) columns.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from rtdlm.config import UserError


def qubits_of(state_N: jax.Array) -> int:
    """How many qubits have so many amplitudes.

    Raises:
        UserError: the shape is not `[2^n]`.
    """
    size = state_N.shape[0] if state_N.ndim == 1 else 0
    if size < 2 or size & (size - 1):
        raise UserError(f"a state has shape {state_N.shape}: expected [2^n] for n qubits")
    return size.bit_length() - 1


def rows(state_N: jax.Array, qubits: Sequence[int]) -> jax.Array:
    """`[M, W]`, the first of `qubits` being the most significant bit of a row's number.

    Raises:
        UserError: a qubit is named twice, or is not there.
    """
    num_qubits = qubits_of(state_N)
    if len({*qubits}) != len(qubits) or not all(0 <= q < num_qubits for q in qubits):
        raise UserError(
            f"qubits {tuple(qubits)} of {num_qubits}: name different ones, from 0 to "
            f"{num_qubits - 1}"
        )
    apart = jnp.moveaxis(state_N.reshape([2] * num_qubits), qubits, range(len(qubits)))
    return apart.reshape(2 ** len(qubits), -1)


def unrows(rows_MW: jax.Array, qubits: Sequence[int]) -> jax.Array:
    """The state `[N]` whose `rows` these are."""
    num_qubits = rows_MW.size.bit_length() - 1
    apart = rows_MW.reshape([2] * num_qubits)
    return jnp.moveaxis(apart, range(len(qubits)), qubits).reshape(-1)
