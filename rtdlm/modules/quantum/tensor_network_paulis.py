"""Products of Pauli matrices as a matrix a qubit, for tensor networks of hundreds of qubits."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from rtdlm.config import UserError
from rtdlm.modules.quantum.gates import PAULIS


def pauli_matrices(strings: Sequence[str], num_qubits: int) -> jax.Array:
    """`[len(strings), num_qubits, 2, 2]`, complex64, exactly.

    Args:
        strings: letters of IXYZ each, qubit 0 first; qubits without a letter have I.
        num_qubits: how many qubits there are.

    Raises:
        UserError: a string is too long or has another letter.
    """
    for string in strings:
        if len(string) > num_qubits or not {*string} <= {*"IXYZ"}:
            raise UserError(
                f"{string!r} is no product of Pauli matrices on {num_qubits} qubits: give a letter "
                "of I, X, Y and Z for each"
            )
    codes = [["IXYZ".index(x) for x in string.ljust(num_qubits, "I")] for string in strings]
    table = np.stack([PAULIS[letter] for letter in "IXYZ"]).astype(np.complex64)
    return jnp.asarray(table)[jnp.asarray(codes, jnp.int32)]
