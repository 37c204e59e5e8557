"""Circuits to be trained: a round of each, `num_rounds` times, with parameters of its own.

- `hardware_efficient`: RY and RZ on every qubit, then CNOTs around the ring (arXiv 1704.05018).
- `strongly_entangling`: U3 on every qubit, then CNOTs to the qubit `reach` further around the ring,
  for each of `reaches` (arXiv 1804.00633).
- `data_reuploading`: U3 whose angles are shift + weight * feature on every qubit, then CZs around
  the ring: the data enter in every round (arXiv 1907.02085).
- `brick_wall`: RY, RZ and a CZ on the pairs (0, 1), (2, 3), ..., then on (1, 2), (3, 4), ...
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import count

from rtdlm.config import UserError
from rtdlm.modules.quantum.circuit import Angle, Circuit, Op, op


def hardware_efficient(num_qubits: int, *, num_rounds: int) -> Circuit:
    """2 n parameters a round."""
    params = count()
    ops = [each for qubit in range(num_qubits) for each in _turns(qubit, params)]
    return Circuit(num_qubits, (*ops, *_ring("CNOT", num_qubits, 1)), num_rounds)


def strongly_entangling(
    num_qubits: int, *, num_rounds: int, reaches: Sequence[int] = (1,)
) -> Circuit:
    """3 n parameters a round for each of `reaches`, distances from 1 to n - 1."""
    params, ops = count(), []
    for reach in reaches:
        if not 1 <= reach < max(num_qubits, 2):
            raise UserError(f"a reach of {reach} on {num_qubits} qubits: expected 1 to n - 1")
        for qubit in range(num_qubits):
            angles = [Angle(param=next(params)) for _ in range(3)]
            ops.append(op("U3", qubit, angles=angles))
        ops += _ring("CNOT", num_qubits, reach)
    return Circuit(num_qubits, tuple(ops), num_rounds)


def data_reuploading(num_qubits: int, *, num_rounds: int, num_features: int) -> Circuit:
    """A shift and a weight for each angle: every feature has one, and all that are over begin anew.

    With more features than 3 n angles, a qubit has several U3 in a row.
    """
    if num_features < 1:
        raise UserError(f"data_reuploading of {num_features} features: expected 1 or more")
    params, features, ops = count(), count(), []
    for _ in range(-(-num_features // (3 * num_qubits))):
        for qubit in range(num_qubits):
            angles = [
                Angle(
                    param=next(params), feature=next(features) % num_features, weight=next(params)
                )
                for _ in range(3)
            ]
            ops.append(op("U3", qubit, angles=angles))
    return Circuit(num_qubits, (*ops, *_ring("CZ", num_qubits, 1)), num_rounds)


def brick_wall(num_qubits: int, *, num_rounds: int) -> Circuit:
    """4 parameters a pair, of n - 1 pairs a round; there must be one."""
    if num_qubits < 2:
        raise UserError(f"brick_wall of {num_qubits} qubit: expected 2 or more, it acts on pairs")
    params, ops = count(), []
    for first in (0, 1):
        for qubit in range(first, num_qubits - 1, 2):
            ops += [*_turns(qubit, params), *_turns(qubit + 1, params), op("CZ", qubit, qubit + 1)]
    return Circuit(num_qubits, tuple(ops), num_rounds)


ANSATZES: dict[str, Callable[..., Circuit]] = {
    "hardware_efficient": hardware_efficient,
    "strongly_entangling": strongly_entangling,
    "data_reuploading": data_reuploading,
    "brick_wall": brick_wall,
}
"""Name -> a function of the qubits, `num_rounds` and, for `data_reuploading`, `num_features`."""


def _turns(qubit: int, params: Iterator[int]) -> list[Op]:
    return [op(gate, qubit, angles=[Angle(param=next(params))]) for gate in ("RY", "RZ")]


def _ring(gate: str, num_qubits: int, reach: int) -> list[Op]:
    """From every qubit to one further on; two qubits have one pair, and one has none."""
    starts = range(num_qubits if num_qubits > 2 else num_qubits - 1)
    return [op(gate, qubit, (qubit + reach) % num_qubits) for qubit in starts]
