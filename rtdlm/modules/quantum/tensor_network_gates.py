"""A circuit's gates, as tensor networks take them: all as matrices of two qubits.

Axes: G gates.
"""

import jax
import jax.numpy as jnp
import numpy as np

from rtdlm.config import UserError
from rtdlm.modules.quantum.circuit import Circuit, matrices
from rtdlm.modules.quantum.gates import GATES


def two_qubit_gates(
    circuit: Circuit,
    params: jax.Array | None,
    features: jax.Array | None,
    tensors: jax.Array | None,
) -> tuple[list[tuple[int, ...]], jax.Array]:
    """The qubits of all gates, round by round, and `[G + 1, 4, 4]`: their matrices and a swap.

    A gate on one qubit is lifted to two, of which it leaves the second alone. The format is the
    finer one of the circuit's (see `matrices`) and of the state's `tensors`.
    """
    for each in circuit.ops:
        if len(each.qubits) > 2:
            raise UserError(
                f"a gate acts on the {len(each.qubits)} qubits {each.qubits}: tensor networks take "
                "gates on one or two; write it as those, or use the statevector"
            )
    if params is None and features is None and tensors is not None:
        # Gates without any angle are rounded once, to the state's format.
        params = jnp.zeros((circuit.num_rounds, 0), jnp.finfo(tensors.dtype).dtype)
    made = matrices(circuit, params, features)
    dtype = np.result_type(np.complex64, *(x.dtype for x in (*made, tensors) if x is not None))
    swap = jnp.asarray(GATES["SWAP"].matrix(), dtype)[None]
    if not made:
        return [], swap
    made = [gate.astype(dtype) for gate in made]
    one = jnp.eye(2, dtype=dtype)[None]
    lifted = [_kron(gate, one) if gate.shape[-1] == 2 else gate for gate in made]
    gates = jnp.stack(lifted, 1).reshape(-1, 4, 4)
    qubits = [each.qubits for each in circuit.ops] * circuit.num_rounds
    return qubits, jnp.concatenate([gates, swap])


def _kron(first: jax.Array, second: jax.Array) -> jax.Array:
    """The Kronecker product of the last two axes."""
    product = first[:, :, None, :, None] * second[:, None, :, None, :]
    return product.reshape(-1, 4, 4)
