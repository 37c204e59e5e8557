"""In which order a chain's tensors are visited: gates on any pair as steps on neighbours.

A gate on two qubits needs them side by side and the centre at one of them. So the left qubit walks
to the right one by swaps, which are gates like any other; who stands where is remembered and set
right at the end, so that gates that follow one another need few of them. The centre walks along.
A plan is arrays of numbers, read by one `lax.scan` whose program is the same for every circuit.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

Integers = np.ndarray[Any, np.dtype[np.int32]]
GATE, MOVE, LOCAL = 0, 2, 4
"""Apply a two-qubit gate; move the centre by one; apply a one-qubit gate. One more is its mirror
image: the centre goes, or the gate acts, on the left."""
SWAP = -1


class Plan(NamedTuple):
    """Steps in order; all arrays have one length."""

    site: Integers
    """The left one of the two neighbours that a step is about."""
    kind: Integers
    gate: Integers
    """Number of the gate; SWAP for a swap."""
    flipped: np.ndarray[Any, np.dtype[np.bool_]]
    """Whether the gate's first qubit is the right one."""


class _Walk:
    """A plan in the making: where the centre and the qubits are."""

    def __init__(self, num_qubits: int) -> None:
        self.steps: list[tuple[int, int, int, bool]] = []
        self.centre = 0
        self.at = list(range(num_qubits))
        """Qubit -> site."""

    def local(self, gate: int, qubit: int) -> None:
        site = self.at[qubit]
        left = min(site, len(self.at) - 2)
        self.steps.append((left, LOCAL + (site == left), gate, site > left))

    def pair(self, gate: int, first: int, second: int) -> None:
        near, far = sorted((self.at[first], self.at[second]))
        for site in range(near, far - 1):
            self.swap(site)
        self._gate(gate, far - 1, flipped=self.at[first] == far)

    def swap(self, site: int) -> None:
        self._gate(SWAP, site, flipped=False)
        self.at = [{site: site + 1, site + 1: site}.get(place, place) for place in self.at]

    def move(self, to: int) -> None:
        while self.centre < to:
            self.steps.append((self.centre, MOVE, SWAP, False))
            self.centre += 1
        while self.centre > to:
            self.centre -= 1
            self.steps.append((self.centre, MOVE + 1, SWAP, False))

    def _gate(self, gate: int, site: int, *, flipped: bool) -> None:
        to_left = self.centre > site
        self.move(site + to_left)
        self.steps.append((site, GATE + to_left, gate, flipped))
        # It goes on in the direction in which it came.
        self.centre = site + (not to_left)


def plan(acted: Sequence[tuple[int, ...]], num_qubits: int) -> Plan:
    """Steps for gates on these qubits, one or two each, from centre 0 to centre 0."""
    walk = _Walk(num_qubits)
    for gate, qubits in enumerate(acted):
        if len(qubits) == 1:
            walk.local(gate, *qubits)
        else:
            walk.pair(gate, *qubits)
    for qubit in range(num_qubits):
        for site in reversed(range(qubit, walk.at[qubit])):
            walk.swap(site)
    walk.move(0)
    # In this form a plan of no steps has its columns, too.
    table = np.array(walk.steps, np.int32).reshape(-1, 4)
    return Plan(table[:, 0], table[:, 1], table[:, 2], table[:, 3].astype(np.bool_))
