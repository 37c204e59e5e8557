"""Gates fused to blocks: a few wide matrix products instead of many narrow ones.

A block is the product of gates on at most `most` qubits, a matrix of 2^k rows. Which gate goes to
which block is decided once, from the circuit alone: a gate joins the first block that it may (none
later acts on its qubits) and that has room; gates on one qubit wait for the first gate on two.
Blocks are computed anew from the gates' matrices, for all rounds at once.

Axes: R rounds, D = 2^k rows of a block, E = 2D of its real form, d rows of a gate.
"""

from collections.abc import Sequence
from functools import cache, reduce
from itertools import groupby
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rtdlm.modules.quantum.circuit import Op, fixed_matrix

MOST = 4
"""Qubits of a block: with fewer the state is read more often, with more there is more to add."""


class Block(NamedTuple):
    """Gates that act as one."""

    qubits: tuple[int, ...]
    """Ascending: the first is the most significant bit of the block's matrix."""
    ops: tuple[int, ...]
    """Numbers of its ops, the first first."""


def block_size(num_qubits: int) -> int:
    """Qubits of a block: where the state is small, no more than make a matrix of the same size."""
    return min(MOST, max(2, num_qubits // 2))


@cache
def fuse(ops: tuple[Op, ...], *, most: int) -> tuple[Block, ...]:
    """The blocks whose product, the first first, is that of `ops`."""
    taken = _Blocks([], [], {})
    waiting: dict[int, list[int]] = {}
    for number, each in enumerate(ops):
        if len(each.qubits) == 1 and each.qubits[0] not in taken.last:
            waiting.setdefault(each.qubits[0], []).append(number)
            continue
        before = [early for qubit in each.qubits for early in waiting.pop(qubit, [])]
        taken.add(set(each.qubits), [*before, number], most)
    for qubit, numbers in waiting.items():
        taken.add({qubit}, numbers, most)
    pairs = zip(taken.qubits, taken.ops, strict=True)
    return tuple(Block(tuple(sorted(qubits)), tuple(numbers)) for qubits, numbers in pairs)


class _Blocks(NamedTuple):
    """What is fused so far."""

    qubits: list[set[int]]
    ops: list[list[int]]
    last: dict[int, int]
    """Qubit -> the last block that acts on it."""

    def add(self, qubits: set[int], numbers: Sequence[int], most: int) -> None:
        """Ops on `qubits` join the first block that they may, or begin one."""
        earliest = max(self.last.get(qubit, 0) for qubit in qubits)
        place = len(self.ops)
        for i in range(earliest, len(self.ops)):
            if len(self.qubits[i] | qubits) <= max(most, len(self.qubits[i])):
                place = i
                break
        else:
            self.qubits.append(set())
            self.ops.append([])
        self.qubits[place] |= qubits
        self.ops[place] += numbers
        self.last.update(dict.fromkeys(qubits, place))


def block_matrix(
    qubits: Sequence[int], numbers: Sequence[int], ops: Sequence[Op], matrices: Sequence[jax.Array]
) -> jax.Array:
    """The product of ops, the first first, as a matrix on `qubits`.

    Args:
        qubits: all that the ops act on, the first the most significant.
        numbers: which of `ops`.
        ops: those of the circuit.
        matrices: of each op, `[R, d, d]`.

    Returns:
        `[R, D, D]`.
    """
    singles, rest = _apart(numbers, ops)
    places = {number: [qubits.index(qubit) for qubit in ops[number].qubits] for number in rest}
    product_RDD = _side_by_side(
        [[matrices[i] for i in singles.get(q, [])] for q in qubits], like=matrices[0]
    )
    for is_fixed, run in groupby(rest, lambda number: not ops[number].angles):
        if is_fixed:
            # Multiplied here and now: none of this is left when the circuit runs.
            fixed_1DD = np.eye(2 ** len(qubits), dtype=np.complex128)[None]
            for i in run:
                fixed_1DD = _act(fixed_matrix(ops[i].gate)[None], fixed_1DD, places[i])
            fixed_DD = jnp.asarray(fixed_1DD[0], product_RDD.dtype)
            product_RDD = jnp.matmul(fixed_DD, product_RDD, precision="highest")
        else:
            for i in run:
                product_RDD = _act(matrices[i], product_RDD, places[i])
    return product_RDD


def _apart(numbers: Sequence[int], ops: Sequence[Op]) -> tuple[dict[int, list[int]], list[int]]:
    """Ops on one qubit before all others on it, by qubit; and the rest."""
    singles: dict[int, list[int]] = {}
    rest: list[int] = []
    met: set[int] = set()
    for number in numbers:
        qubits = ops[number].qubits
        if len(qubits) == 1 and qubits[0] not in met:
            singles.setdefault(qubits[0], []).append(number)
        else:
            rest.append(number)
            met |= {*qubits}
    return singles, rest


def _side_by_side(gates: Sequence[Sequence[jax.Array]], *, like: jax.Array) -> jax.Array:
    """The Kronecker product of each qubit's gates `[R, 2, 2]`, the first of them first."""
    rounds, dtype = len(like), like.dtype
    product_RDD = jnp.ones((rounds, 1, 1), dtype)
    for own in gates:
        one_R22 = jnp.broadcast_to(jnp.eye(2, dtype=dtype), (rounds, 2, 2))
        if own:
            one_R22 = reduce(lambda before, gate: _act(gate, before, [0]), own)
        both = product_RDD[:, :, None, :, None] * one_R22[:, None, :, None, :]
        product_RDD = both.reshape(rounds, *[2 * product_RDD.shape[1]] * 2)
    return product_RDD


def _act(matrix_Rdd: Any, x_RDC: Any, places: Sequence[int]) -> Any:
    """A matrix on the bits `places` of a row's number, the first of them the highest."""
    rounds, rows, columns = x_RDC.shape
    bits = rows.bit_length() - 1
    front = [1 + place for place in places]
    axes = [0, *front, *(axis for axis in range(1, bits + 2) if axis not in front)]
    apart = x_RDC.reshape(rounds, *[2] * bits, columns).transpose(axes)
    # Written out, since a product of so few rows is faster so than as a call.
    terms = matrix_Rdd[..., None] * apart.reshape(rounds, 1, matrix_Rdd.shape[-1], -1)
    back = np.argsort(axes)
    return terms.sum(2).reshape(apart.shape).transpose(back).reshape(x_RDC.shape)


def real_form(matrix: jax.Array) -> jax.Array:
    """[[Re, -Im], [Im, Re]], `[..., E, E]`: what a complex matrix does to two planes."""
    re, im = matrix.real, matrix.imag
    rows = [jnp.concatenate(row, -1) for row in ((re, -im), (im, re))]
    return jnp.concatenate(rows, -2)
