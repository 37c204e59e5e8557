"""The state of a circuit's qubits, all 2^n amplitudes: |s> = U_m ... U_2 U_1 |0...0>.

Gates are fused to blocks, whose matrices are computed for all rounds at once (`fusion`), and blocks
go over the state one by one, one round compiled for all (`adjoint`). The gradient goes the same way
back, and from the blocks to the angles by ordinary autodiff of small matrices. No matrix has 2^n
rows. From |0...0> the first rounds go over halves of the state, while that is less work (`halves`).

Axes: N = 2^n amplitudes, R rounds, D = 2^k rows of a block.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rtdlm.config import UserError
from rtdlm.modules.quantum.adjoint import evolve, orders_of
from rtdlm.modules.quantum.circuit import Circuit, matrices
from rtdlm.modules.quantum.fusion import block_matrix, block_size, fuse, real_form
from rtdlm.modules.quantum.gates import complex_of
from rtdlm.modules.quantum.halves import run_halves
from rtdlm.modules.quantum.halves_plan import rounds_in_halves


def zero_state(num_qubits: int, dtype: Any = jnp.complex64) -> jax.Array:
    """|0...0>, `[2^n]`."""
    return jnp.zeros(2**num_qubits, dtype).at[0].set(1)


def start_state(circuit: Circuit, made: Sequence[jax.Array], state: jax.Array | None) -> jax.Array:
    """The state given, or |0...0> in the format of the ops' matrices.

    Raises:
        UserError: the state given has another shape than the circuit's.
    """
    if state is None:
        return zero_state(circuit.num_qubits, made[0].dtype if made else jnp.complex64)
    if state.shape != (2**circuit.num_qubits,):
        raise UserError(
            f"the state has shape {state.shape}: {circuit.num_qubits} qubits have "
            f"{2**circuit.num_qubits} amplitudes"
        )
    return state.astype(complex_of(state.dtype))


def run(
    circuit: Circuit,
    params: jax.Array | None = None,
    features: jax.Array | None = None,
    *,
    state: jax.Array | None = None,
) -> jax.Array:
    """The state that a circuit leaves behind.

    Differentiable by params, features and state, in memory that does not grow with `num_rounds`
    behind the few that go in halves.
    For a batch, `jax.vmap` it; compile it, `jax.jit`, with whatever computes with the state.

    Args:
        circuit: the circuit.
        params: `[num_rounds, num_params]`, or `[num_params]` for one round; None without any.
        features: `[num_features]`; None without any.
        state: complex `[2^n]`, qubit 0 being the most significant bit of an index; None is |0...0>.

    Returns:
        `[2^n]` in the state's format; without one, complex128 of float64 params, else complex64.

    Raises:
        UserError: something has another shape than these.
    """
    dtype = None if state is None else complex_of(state.dtype)
    made = matrices(circuit, params, features, dtype=dtype)
    if not made:
        return start_state(circuit, made, state)
    if state is None:
        planes = _from_zero(circuit, made)
    else:
        planes = _rounds(circuit, made, _planes(start_state(circuit, made, state)))
    return jax.lax.complex(planes[0], planes[1])


def _from_zero(circuit: Circuit, made: list[jax.Array]) -> jax.Array:
    """The planes that all rounds leave of |0...0>; the first rounds in halves, where that pays."""
    begun = rounds_in_halves(circuit)
    if not begun:
        return _rounds(circuit, made, _planes(start_state(circuit, made, None)))
    planes = run_halves(circuit, made, begun)
    if begun == circuit.num_rounds:
        return planes
    return _rounds(circuit, [matrix_RDD[begun:] for matrix_RDD in made], planes)


def _planes(state: jax.Array) -> jax.Array:
    return jnp.stack([state.real, state.imag])


def _rounds(circuit: Circuit, made: Sequence[jax.Array], planes_2N: jax.Array) -> jax.Array:
    """Through as many rounds as there are matrices of each op."""
    blocks = fuse(circuit.ops, most=block_size(circuit.num_qubits))
    orders = orders_of(circuit.num_qubits, [block.qubits for block in blocks])
    given = []
    for block, order in zip(blocks, orders, strict=True):
        matrix_RDD = block_matrix(order[: len(block.qubits)], block.ops, circuit.ops, made)
        given.append(real_form(matrix_RDD))
    return evolve(orders, given, planes_2N)
