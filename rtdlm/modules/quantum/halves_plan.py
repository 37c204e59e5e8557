"""What to do for a circuit's first rounds in halves, and how many of them pay; see `.halves`."""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rtdlm.modules.quantum.circuit import Angle, Circuit, Matrix, Op, fixed_matrix
from rtdlm.modules.quantum.fusion import Block, block_size, fuse
from rtdlm.modules.quantum.gates import GATES, Complex

FEWEST = 14
"""Qubits: a smaller state is so soon through that the pieces cost more than they save."""
MOST_ROUNDS, MOST_OPEN = 8, 6
"""Rounds, and qubits that are open at a time: so that compilation does not grow with the depth of a
circuit that no gate crosses, and with the reach of gates where every one does."""


class Choice(NamedTuple):
    """An op of one half, or what one that crosses does to the half of its other qubits."""

    number: int
    """Of the op in its round."""
    qubits: tuple[int, ...]
    """Of the half, from 0 on."""
    control: int | None
    """The qubit of the other half whose value chooses."""


class Apply(NamedTuple):
    """Ops of one round on one half, fused."""

    half: int
    round: int
    choices: tuple[Choice, ...]
    blocks: tuple[Block, ...]
    """Of what stands for `choices` in `fuse`."""
    controls: tuple[int, ...]
    """Open ones of the other half, an axis of variants each."""
    terms: int
    """t, of 2^t."""

    @property
    def of_any_round(self) -> "Apply":
        """The same for all rounds that are alike, so that what is compiled does not grow."""
        return self._replace(round=0, terms=0)


class Permute(NamedTuple):
    """Ops without angles, such as CNOT and CZ, that move amplitudes and turn signs."""

    half: int
    choices: tuple[Choice, ...]
    controls: tuple[int, ...]


class Close(NamedTuple):
    """All open choices become terms."""

    controls: tuple[tuple[int, ...], tuple[int, ...]]
    """Qubits of the first half, and of the second."""


class Join(NamedTuple):
    """The whole state."""

    controls: tuple[tuple[int, ...], tuple[int, ...]]
    terms: int


Step = Apply | Permute | Close | Join


def rounds_in_halves(circuit: Circuit) -> int:
    """How many rounds, from |0...0> on, take the fewest operations if they are run in halves."""
    if circuit.num_qubits < FEWEST:
        return 0
    blocks = fuse(circuit.ops, most=block_size(circuit.num_qubits))
    whole = sum(4 * 2 ** (circuit.num_qubits + len(block.qubits) + 1) for block in blocks)
    best, least = 0, circuit.num_rounds * whole
    for rounds in range(1, min(circuit.num_rounds, MOST_ROUNDS) + 1):
        steps = plan(circuit, rounds)
        if steps is None:
            break
        cost = operations(circuit, steps) + (circuit.num_rounds - rounds) * whole
        if cost < least:
            best, least = rounds, cost
    return best


@cache
def plan(circuit: Circuit, rounds: int) -> tuple[Step, ...] | None:
    """What to do for the first rounds; None if a gate crosses without keeping a qubit, or too many.

    A gate that has more than one qubit on either side of the cut keeps none that would do.
    """
    found = _Plan(circuit)
    for number in range(rounds):
        if not found.add_round(number):
            return None
    return found.joined()


def operations(circuit: Circuit, steps: Sequence[Step], *, gradient: bool = False) -> int:
    """Of all products of matrices; with a gradient, those of the way back too.

    Back through a block go the state, its cotangent and what is found of the matrix, and through
    the join two cotangents.
    """
    sizes, count = sizes_of(circuit), 0
    block, join = (4, 3) if gradient else (1, 1)
    for step in steps:
        match step:
            case Apply():
                amplitudes = 2 ** (sizes[step.half] + step.terms + len(step.controls))
                rows = sum(2 ** (len(each.qubits) + 1) for each in step.blocks)
                count += block * 4 * amplitudes * rows
            case Join():
                count += join * 8 * 2 ** (circuit.num_qubits + step.terms)
    return count


def sizes_of(circuit: Circuit) -> tuple[int, int]:
    """Qubits of either half."""
    first = circuit.num_qubits // 2
    return first, circuit.num_qubits - first


@cache
def kept(gate: str | Matrix) -> tuple[bool, ...]:
    """Of each qubit of a gate: whether it leaves its value as it is, whatever the angles."""
    if isinstance(gate, str) and GATES[gate].num_angles:
        with jax.ensure_compile_time_eval():
            angles = [jnp.float32(0.7 + 0.4 * i) for i in range(GATES[gate].num_angles)]
            matrix = np.asarray(GATES[gate].matrix(*angles))
    else:
        matrix = fixed_matrix(gate)
    rows = np.arange(len(matrix))
    bits = len(matrix).bit_length() - 1
    found = []
    for place in reversed(range(bits)):
        bit = rows >> place & 1
        found.append(bool(np.abs(matrix[bit[:, None] != bit[None]]).max() < 1e-6))
    return tuple(found)


class _Plan:
    """Steps so far, and what they leave to do."""

    def __init__(self, circuit: Circuit) -> None:
        self._circuit = circuit
        self._sizes = sizes_of(circuit)
        self._steps: list[Step] = []
        self._terms = 0
        self._round = 0
        self._waiting: tuple[list[Choice], list[Choice]] = ([], [])
        self._open: tuple[list[int], list[int]] = ([], [])
        self._variants: list[tuple[int, ...]] = [(), ()]

    def add_round(self, number: int) -> bool:
        """Adds one round; False if it cannot be."""
        if self._changes(self._circuit.ops):
            self._close()
        self._flush()
        self._round = number
        return all(self._add(i, each) for i, each in enumerate(self._circuit.ops))

    def joined(self) -> tuple[Step, ...]:
        """All steps."""
        self._flush()
        return (*self._steps, Join(self._controls(), self._terms))

    def _add(self, number: int, each: Op) -> bool:
        if self._changes([each]):
            self._close()
        places = [self._place(qubit) for qubit in each.qubits]
        halves = [half for half, _ in places]
        if len({*halves}) == 1:
            qubits = tuple(qubit for _, qubit in places)
            self._waiting[halves[0]].append(Choice(number, qubits, None))
            return True
        alone = [
            (half, qubit)
            for (half, qubit), stays in zip(places, kept(each.gate), strict=True)
            if stays and halves.count(half) == 1
        ]
        if not alone:
            return False
        # One that is open already needs no variants of its own.
        half, control = min(alone, key=lambda place: place[1] not in self._open[place[0]])
        if control not in self._open[half]:
            self._open[half].append(control)
        others = tuple(qubit for place, qubit in places if place != half)
        self._waiting[1 - half].append(Choice(number, others, control))
        return sum(map(len, self._open)) <= MOST_OPEN

    def _changes(self, ops: Sequence[Op]) -> bool:
        """Whether an open qubit is changed by one of `ops`."""
        for each in ops:
            for qubit, stays in zip(each.qubits, kept(each.gate), strict=True):
                half, place = self._place(qubit)
                if not stays and place in self._open[half]:
                    return True
        return False

    def _place(self, qubit: int) -> tuple[int, int]:
        first = self._sizes[0]
        return (0, qubit) if qubit < first else (1, qubit - first)

    def _controls(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return tuple(self._open[0]), tuple(self._open[1])

    def _flush(self) -> None:
        for half, waiting in enumerate(self._waiting):
            # Behind the last op that mixes amplitudes all others are one pass.
            moving = 0
            while moving < len(waiting) and self._moves(waiting[-1 - moving]):
                moving += 1
            mixing = len(waiting) - moving
            if mixing:
                self._apply(half, tuple(waiting[:mixing]))
            if moving:
                choices = tuple(waiting[mixing:])
                self._variants[half] = self._controls_of(half, choices)
                self._steps.append(Permute(half, choices, self._variants[half]))
            waiting.clear()

    def _apply(self, half: int, choices: tuple[Choice, ...]) -> None:
        most = block_size(self._sizes[half])
        blocks = fuse(stand_ins(self._circuit, choices), most=most)
        self._variants[half] = controls = self._controls_of(half, choices)
        self._steps.append(Apply(half, self._round, choices, blocks, controls, self._terms))

    def _controls_of(self, half: int, choices: Sequence[Choice]) -> tuple[int, ...]:
        """An axis for all that is open if something chooses, else those that are there."""
        if any(each.control is not None for each in choices):
            return tuple(self._open[1 - half])
        return self._variants[half]

    def _moves(self, choice: Choice) -> bool:
        each = self._circuit.ops[choice.number]
        return not each.angles and _is_signed_permutation(fixed_matrix(each.gate))

    def _close(self) -> None:
        self._flush()
        self._steps.append(Close(self._controls()))
        self._terms += len(self._open[0]) + len(self._open[1])
        for open in self._open:
            open.clear()
        self._variants = [(), ()]


def stand_ins(circuit: Circuit, choices: Sequence[Choice]) -> tuple[Op, ...]:
    """Ops on a half that are fused as `choices` are; what chooses is no fixed gate."""
    return tuple(
        circuit.ops[each.number]._replace(qubits=each.qubits)
        if each.control is None
        else Op("chosen", each.qubits, (Angle(),))
        for each in choices
    )


def _is_signed_permutation(matrix: Complex) -> bool:
    """Whether every row is one entry of 1 or -1."""
    ones = np.abs(matrix.real) == 1
    return bool((matrix == np.where(ones, matrix.real, 0)).all() and (ones.sum(1) == 1).all())
