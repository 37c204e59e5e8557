"""Named quantum gates as matrices, on one, two and three qubits.

    R_P(a) = exp(-i a P / 2) = cos(a / 2) 1 - i sin(a / 2) P        for a product P of Paulis

Conventions: the first qubit that a gate names is the most significant bit of a row's number in its
matrix, so that CNOT on (c, t) is [[1, 0], [0, X]] with the control c before the target t; and qubit
0 is the most significant bit of a basis state's number. U3 and PHASE are those of OpenQASM 2
(arXiv 1707.03429), up to no phase: U3(a, b, c) = [[cos, -e^ic sin], [e^ib sin, e^i(b + c) cos]] of
a / 2, PHASE(a) = diag(1, e^ia).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Complex = np.ndarray[Any, np.dtype[np.complex128]]

PAULIS: dict[str, Complex] = {
    "I": np.eye(2, dtype=np.complex128),
    "X": np.array([[0, 1], [1, 0]], np.complex128),
    "Y": np.array([[0, -1j], [1j, 0]], np.complex128),
    "Z": np.array([[1, 0], [0, -1]], np.complex128),
}


class Gate(NamedTuple):
    """A kind of gate."""

    num_qubits: int
    num_angles: int
    matrix: Callable[..., jax.Array | Complex]
    """Angles `[...]`, radians, to `[..., 2^q, 2^q]`; complex64 of float32, complex128 of float64.

    Without angles it is a NumPy array, complex128.
    """


def complex_of(dtype: Any) -> Any:
    """Complex64 of float32 and complex64, complex128 of float64 and complex128."""
    return np.result_type(dtype, np.complex64)


def _scaled(factor: jax.Array, constant: Complex) -> jax.Array:
    """factor * constant, `[..., D, D]`, for a factor `[...]` of any format."""
    factor = factor.astype(complex_of(factor.dtype))
    grown = jnp.asarray(constant.reshape((1,) * factor.ndim + constant.shape), factor.dtype)
    return factor[..., None, None] * grown


def _rotation(angle: jax.Array, *, pauli: Complex) -> jax.Array:
    one = np.eye(len(pauli), dtype=np.complex128)
    return _scaled(jnp.cos(angle / 2), one) + _scaled(jnp.sin(angle / 2), -1j * pauli)


def _phase(angle: jax.Array) -> jax.Array:
    zero, one = np.diag([1, 0]).astype(np.complex128), np.diag([0, 1]).astype(np.complex128)
    return _scaled(jnp.ones_like(angle), zero) + _scaled(
        jax.lax.complex(jnp.cos(angle), jnp.sin(angle)), one
    )


def _u3(a: jax.Array, b: jax.Array, c: jax.Array) -> jax.Array:
    """PHASE(b) RY(a) PHASE(c), which is U3 to the letter."""
    return _phase(b) @ _rotation(a, pauli=PAULIS["Y"]) @ _phase(c)


def _controlled(*angles: jax.Array, matrix: Callable[..., jax.Array]) -> jax.Array:
    """[[1, 0], [0, matrix]]: the control comes first."""
    block = matrix(*angles)
    size = block.shape[-1]
    padded = jnp.pad(block, [(0, 0)] * (block.ndim - 2) + [(size, 0)] * 2)
    keep = np.diag([1] * size + [0] * size).astype(np.complex128)
    return padded + _scaled(jnp.ones(block.shape[:-2], block.dtype), keep)


def _fixed(matrix: Any) -> Callable[[], Complex]:
    return partial(np.asarray, matrix, np.complex128)


def _flip(num_qubits: int) -> Callable[[], Complex]:
    """X on the last qubit if all others are 1."""
    order = [*range(2**num_qubits - 2), 2**num_qubits - 1, 2**num_qubits - 2]
    return _fixed(np.eye(2**num_qubits)[order])


_TURNS = {name: partial(_rotation, pauli=PAULIS[name]) for name in "XYZ"}
_PAIRS = {
    name: partial(_rotation, pauli=np.kron(pauli, pauli).astype(np.complex128))
    for name, pauli in PAULIS.items()
    if name != "I"
}

GATES: dict[str, Gate] = {
    **{name: Gate(1, 0, _fixed(PAULIS[name])) for name in "XYZ"},
    "H": Gate(1, 0, _fixed(np.array([[1, 1], [1, -1]]) / np.sqrt(2))),
    "S": Gate(1, 0, _fixed(np.diag([1, 1j]))),
    "T": Gate(1, 0, _fixed(np.diag([1, np.exp(0.25j * np.pi)]))),
    "PHASE": Gate(1, 1, _phase),
    "U3": Gate(1, 3, _u3),
    "CNOT": Gate(2, 0, _flip(2)),
    "CZ": Gate(2, 0, _fixed(np.diag([1, 1, 1, -1]))),
    "SWAP": Gate(2, 0, _fixed(np.eye(4)[[0, 2, 1, 3]])),
    "TOFFOLI": Gate(3, 0, _flip(3)),
    **{f"R{name}": Gate(1, 1, turn) for name, turn in _TURNS.items()},
    **{f"CR{name}": Gate(2, 1, partial(_controlled, matrix=t)) for name, t in _TURNS.items()},
    **{f"R{name}{name}": Gate(2, 1, turn) for name, turn in _PAIRS.items()},
}
"""Name -> gate. The inverse of S and T is PHASE with a negative angle."""
