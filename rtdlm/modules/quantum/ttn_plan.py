"""In which order a tree's tensors are visited: gates on any pair as walks of one qubit.

A gate needs both qubits at one node. So the one that is nearer to the centre is lifted off its leaf
and carried, with the centre, along the tree to the other's node, and after the gate back again. A
plan is arrays of numbers, read by one `lax.scan` whose program is the same for every circuit.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

Integers = np.ndarray[Any, np.dtype[np.int32]]
LEFT, RIGHT, UPPER = 0, 1, 2
MOVES = ((LEFT, UPPER), (RIGHT, UPPER), (UPPER, LEFT), (UPPER, RIGHT))
"""A move of the centre: the bond that it leaves by, as the old and as the new centre call it."""
MOVE, LIFT, PUT, GATE, LOCAL = 0, 4, 6, 8, 10
"""Kinds of steps: MOVE + which of MOVES; the others + LEFT or RIGHT, the leaf they are about. LIFT
takes its qubit along, PUT gives it back, GATE acts on the carried and it, LOCAL on it alone."""


class Plan(NamedTuple):
    """Steps in order; all arrays have one length."""

    kind: Integers
    node: Integers
    """Whose tensor the step writes: of a move the old centre."""
    centre: Integers
    """The centre: of a move the new one."""
    gate: Integers
    flipped: np.ndarray[Any, np.dtype[np.bool_]]
    """Whether the gate's first qubit is the one at the leaf, not the carried one."""


class _Walk:
    """A plan in the making."""

    def __init__(self, num_leaves: int) -> None:
        self.num_leaves = num_leaves
        self.steps: list[tuple[int, int, int, int, bool]] = []
        self.centre = 0

    def node(self, qubit: int) -> int:
        return self.num_leaves // 2 - 1 + qubit // 2

    def local(self, gate: int, qubit: int) -> None:
        self.steps.append((LOCAL + qubit % 2, self.node(qubit), self.centre, gate, False))

    def pair(self, gate: int, first: int, second: int) -> None:
        lengths = [len(_path(self.centre, self.node(qubit))) for qubit in (first, second)]
        carried, other = (first, second) if lengths[0] <= lengths[1] else (second, first)
        self.move(self.node(carried))
        self._here(LIFT + carried % 2)
        self.move(self.node(other))
        self._here(GATE + other % 2, gate, flipped=carried == second)
        self.move(self.node(carried))
        self._here(PUT + carried % 2)

    def move(self, to: int) -> None:
        for node in _path(self.centre, to):
            is_up = node < self.centre
            child = self.centre if is_up else node
            side = RIGHT if child % 2 == 0 else LEFT
            ends = (UPPER, side) if is_up else (side, UPPER)
            self.steps.append((MOVE + MOVES.index(ends), self.centre, node, 0, False))
            self.centre = node

    def _here(self, kind: int, gate: int = 0, *, flipped: bool = False) -> None:
        self.steps.append((kind, self.centre, self.centre, gate, flipped))


def plan(acted: Sequence[tuple[int, ...]], num_leaves: int) -> Plan:
    """Steps for gates on these qubits, one or two each, from the root to the root."""
    walk = _Walk(num_leaves)
    for gate, qubits in enumerate(acted):
        if len(qubits) == 1:
            walk.local(gate, *qubits)
        else:
            walk.pair(gate, *qubits)
    walk.move(0)
    # In this form a plan of no steps has its columns, too.
    table = np.array(walk.steps, np.int32).reshape(-1, 5)
    numbers = (table[:, 0], table[:, 1], table[:, 2], table[:, 3])
    return Plan(*numbers, table[:, 4].astype(np.bool_))


def _path(start: int, end: int) -> list[int]:
    """The nodes on the way, without the first."""
    up, down = [start], [end]
    while up[-1] != down[-1]:
        # Parents have smaller numbers than their children, rows than those below.
        if up[-1] > down[-1]:
            up.append((up[-1] - 1) // 2)
        else:
            down.append((down[-1] - 1) // 2)
    return [*up[1:], *down[-2::-1]]
