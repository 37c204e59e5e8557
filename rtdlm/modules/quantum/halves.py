"""The first rounds of a circuit on two halves of its qubits, while few gates have crossed the cut:

    |s> = sum over r of |a_r> |b_r>        a on the first half of the qubits, b on the second

A gate on one half acts on all its |a_r>, at the cost of 2^(n/2) R amplitudes in place of 2^n. Of a
gate across, one qubit must be kept, as a control is: U = |0><0| U_0 + |1><1| U_1. It is left open:
the other half goes on in two variants, one for either value of that qubit. When a gate is about to
change the qubit, the choice is closed: there are twice as many terms, and one variant again. What
is open in the end costs nothing more: the state is put together by quarters (Schroedinger-Feynman
simulation, arXiv 1807.10749, with the last crossings left out of the sum).

A circuit whose gates cross in pairs of neighbours has 2^(crossings of a round) times as many terms
with every round, so that the first few are nearly free; `rounds_in_halves` says how many pay.

Axes: N = 2^n amplitudes, V variants, S = 2^(m + t) amplitudes of a half of m qubits in 2^t terms.
"""

from collections.abc import Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rtdlm.modules.quantum.adjoint import evolve, orders_of
from rtdlm.modules.quantum.circuit import Angle, Circuit, Matrix, Op, fixed_matrix
from rtdlm.modules.quantum.fusion import Block, block_matrix, block_size, fuse, real_form
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


def run_halves(circuit: Circuit, made: Sequence[jax.Array], rounds: int) -> jax.Array:
    """The planes `[2, N]` of the state that the first rounds leave of |0...0>.

    Args:
        circuit: the circuit.
        made: the matrices of its ops, `[rounds, d, d]`.
        rounds: for which there is a plan.
    """
    steps = plan(circuit, rounds)
    assert steps is not None, rounds
    sizes, real = sizes_of(circuit), made[0].real.dtype
    made = [matrix_RDD[:rounds] for matrix_RDD in made]
    halves = [jnp.zeros((1, 2, 2**size), real).at[0, 0, 0].set(1) for size in sizes]
    # Rounds are alike: what is to be compiled does not grow with them.
    blocks_of = cache(lambda each: _blocks(circuit, made, each))
    for step in steps:
        match step:
            case Apply():
                every = blocks_of(step._replace(round=0, terms=0))
                given = [block_RVEE[step.round] for block_RVEE in every]
                halves[step.half] = _applied(step, given, halves[step.half])
            case Permute():
                halves[step.half] = _permuted(circuit, step, halves[step.half])
            case Close():
                halves = _closed(sizes, step.controls, halves)
            case Join():
                return _joined(sizes, step, halves)
    raise AssertionError("a plan ends in a join")


def _applied(step: Apply, given_VEE: Sequence[jax.Array], half_V2S: jax.Array) -> jax.Array:
    half_V2S = _spread(half_V2S, step.controls)
    qubits = half_V2S.shape[-1].bit_length() - 1
    orders = orders_of(qubits, [block.qubits for block in step.blocks])
    rounds = [block_VEE[:, None] for block_VEE in given_VEE]
    return jax.vmap(lambda given, half_2S: evolve(orders, given, half_2S))(rounds, half_V2S)


def _blocks(circuit: Circuit, made: Sequence[jax.Array], step: Apply) -> list[jax.Array]:
    """The real form of each block, `[R, V, E, E]`, for all rounds."""
    ops = stand_ins(circuit, step.choices)
    matrices = [_variants(circuit, made, step, each) for each in step.choices]
    flat = [matrix_RVDD.reshape(-1, *matrix_RVDD.shape[2:]) for matrix_RVDD in matrices]
    size = sizes_of(circuit)[step.half]
    orders = orders_of(size, [block.qubits for block in step.blocks])
    found = []
    for block, order in zip(step.blocks, orders, strict=True):
        qubits = order[: len(block.qubits)]
        block_NEE = real_form(block_matrix(qubits, block.ops, ops, flat))
        found.append(block_NEE.reshape(-1, 2 ** len(step.controls), *block_NEE.shape[1:]))
    return found


def _variants(
    circuit: Circuit, made: Sequence[jax.Array], step: Apply, choice: Choice
) -> jax.Array:
    """`[R, V, d, d]`: what an op does to its half in every variant."""
    matrix_RDD = made[choice.number]
    rounds, controls = len(matrix_RDD), step.controls
    if choice.control is None:
        shape = (rounds, 2 ** len(controls), *matrix_RDD.shape[1:])
        return jnp.broadcast_to(matrix_RDD[:, None], shape)
    bits = matrix_RDD.shape[-1].bit_length() - 1
    stays = [_held(circuit, step.half, choice, matrix_RDD, value) for value in (0, 1)]
    rows = 2 ** (bits - 1)
    axis = controls.index(choice.control)
    chosen = jnp.stack(stays, 1).reshape(
        rounds, *[2 if i == axis else 1 for i in range(len(controls))], rows, rows
    )
    every = jnp.broadcast_to(chosen, (rounds, *[2] * len(controls), rows, rows))
    return every.reshape(rounds, -1, rows, rows)


def _held(circuit: Circuit, half: int, choice: Choice, matrix_RDD: Any, value: int) -> Any:
    """The part of a matrix in which the control stays at a value, `[R, d / 2, d / 2]`."""
    assert choice.control is not None
    offset = 0 if half == 1 else sizes_of(circuit)[0]
    place = circuit.ops[choice.number].qubits.index(choice.control + offset)
    rounds, rows = matrix_RDD.shape[:2]
    bits = rows.bit_length() - 1
    apart = matrix_RDD.reshape(rounds, *[2] * (2 * bits))
    index: list[Any] = [slice(None)] * apart.ndim
    index[1 + place] = index[1 + bits + place] = value
    return apart[tuple(index)].reshape(rounds, rows // 2, -1)


def _is_signed_permutation(matrix: Complex) -> bool:
    """Whether every row is one entry of 1 or -1."""
    ones = np.abs(matrix.real) == 1
    return bool((matrix == np.where(ones, matrix.real, 0)).all() and (ones.sum(1) == 1).all())


def _permuted(circuit: Circuit, step: Permute, half_V2S: jax.Array) -> jax.Array:
    size, found = sizes_of(circuit)[step.half], []
    old = half_V2S.reshape(len(half_V2S), 2, 2**size, -1)
    for variant in range(2 ** len(step.controls)):
        source_M, sign_M = _moved_to(circuit, step, variant)
        # Variants that are not there yet come last.
        own = _rows(old[variant * len(old) >> len(step.controls)], tuple(source_M.tolist()))
        if (sign_M < 0).any():
            own *= jnp.asarray(sign_M, own.dtype)[None, :, None]
        found.append(own)
    return jnp.stack(found).reshape(-1, 2, old[0, 0].size)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _rows(x_2MT: jax.Array, source: tuple[int, ...]) -> jax.Array:
    """The rows of a permutation; its gradient takes rows too, where autodiff would scatter them."""
    return x_2MT[:, np.array(source)]


def _rows_forward(x_2MT: jax.Array, source: tuple[int, ...]) -> tuple[jax.Array, None]:
    return _rows(x_2MT, source), None


def _rows_backward(source: tuple[int, ...], _: None, back_2MT: jax.Array) -> tuple[jax.Array]:
    return (back_2MT[:, np.argsort(source)],)


_rows.defvjp(_rows_forward, _rows_backward)


def _moved_to(
    circuit: Circuit, step: Permute, variant: int
) -> tuple[np.ndarray[Any, np.dtype[np.int64]], np.ndarray[Any, np.dtype[np.int64]]]:
    """Which amplitude comes to each place of a half, and by which sign."""
    size = sizes_of(circuit)[step.half]
    rows = np.arange(2**size)
    source_M, sign_M = rows, np.ones_like(rows)
    for choice in step.choices:
        matrix = fixed_matrix(circuit.ops[choice.number].gate)
        if choice.control is not None:
            axis = step.controls.index(choice.control)
            value = variant >> (len(step.controls) - 1 - axis) & 1
            matrix = _held(circuit, step.half, choice, matrix[None], value)[0]
        value_M = _values(size, choice.qubits)
        taken = np.abs(matrix).argmax(1)
        from_M = rows
        for place, qubit in enumerate(reversed(choice.qubits)):
            bit = size - 1 - qubit
            turned = (taken[value_M] >> place & 1) != (rows >> bit & 1)
            from_M = from_M ^ (turned.astype(np.int64) << bit)
        own = matrix.real[value_M, taken[value_M]].round().astype(np.int64)
        source_M, sign_M = source_M[from_M], own * sign_M[from_M]
    return source_M, sign_M


def _closed(
    sizes: tuple[int, int], controls: tuple[Sequence[int], Sequence[int]], halves: list[jax.Array]
) -> list[jax.Array]:
    """With a term for every value of all controls, those of the first half before the others."""
    found = []
    for half, (size, half_V2S) in enumerate(zip(sizes, halves, strict=True)):
        own, others = controls[half], controls[1 - half]
        variants = _spread(half_V2S, others)
        # The terms that were there stay side by side: [V, 2, M, T] to [2, M, V, T].
        terms_2MVT = jnp.moveaxis(variants.reshape(*variants.shape[:2], 2**size, -1), 0, 2)
        is_own_MK = _values(size, own)[:, None] == np.arange(2 ** len(own))[None]
        mask_MK = jnp.asarray(is_own_MK, half_V2S.dtype)
        if half == 0:
            both = terms_2MVT[:, :, None] * mask_MK[None, :, :, None, None]
        else:
            both = terms_2MVT[:, :, :, None] * mask_MK[None, :, None, :, None]
        found.append(both.reshape(1, 2, -1))
    return found


def _spread(half_V2S: jax.Array, controls: Sequence[int]) -> jax.Array:
    """In variants for all controls; those that have none yet come last."""
    return jnp.repeat(half_V2S, 2 ** len(controls) // len(half_V2S), axis=0)


def _values(size: int, qubits: Sequence[int]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The number that `qubits` spell, the first the highest bit, in each of 2^size rows."""
    rows, found = np.arange(2**size), np.zeros(2**size, np.int64)
    for qubit in qubits:
        found = 2 * found + (rows >> (size - 1 - qubit) & 1)
    return found


def _joined(sizes: tuple[int, int], step: Join, halves: list[jax.Array]) -> jax.Array:
    """The sum over terms, for every value of the controls apart."""
    apart = []
    for half, (size, half_V2S) in enumerate(zip(sizes, halves, strict=True)):
        own, others = step.controls[half], step.controls[1 - half]
        bits = _spread(half_V2S, others).reshape(-1, 2, *[2] * size, 2**step.terms)
        front = jnp.moveaxis(bits, [2 + qubit for qubit in own], range(1, 1 + len(own)))
        apart.append(front.reshape(2 ** len(others), 2 ** len(own), 2, -1, 2**step.terms))
    # Both by the first half's controls W, then by the second half's V: what either chooses.
    re, im = (jnp.swapaxes(apart[0][:, :, plane], 0, 1) for plane in (0, 1))
    rows_WVAT = jnp.concatenate([jnp.concatenate([re, -im], -1), jnp.concatenate([im, re], -1)], 2)
    columns_WVTB = jnp.concatenate(
        [jnp.swapaxes(apart[1][:, :, plane], -1, -2) for plane in (0, 1)], 2
    )
    planes = jnp.matmul(rows_WVAT, columns_WVTB, precision="highest")
    return _woven(sizes, step.controls, planes.reshape(*planes.shape[:2], 2, -1, planes.shape[-1]))


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _woven(
    sizes: tuple[int, int], controls: tuple[tuple[int, ...], tuple[int, ...]], apart: jax.Array
) -> jax.Array:
    """`[W, V, 2, A, B]` as `[2, N]`: with every half's controls back among its qubits.

    By stacking and not by a transposition, which writes number by number where the last qubit is
    one of them.
    """
    del sizes
    both = jax.vmap(lambda own: _put_back(own, controls[1], axis=-1))(apart)
    return _put_back(both, controls[0], axis=-2).reshape(2, -1)


def _woven_forward(
    sizes: tuple[int, int], controls: tuple[tuple[int, ...], tuple[int, ...]], apart: jax.Array
) -> tuple[jax.Array, None]:
    return _woven(sizes, controls, apart), None


def _woven_backward(
    sizes: tuple[int, int],
    controls: tuple[tuple[int, ...], tuple[int, ...]],
    _: None,
    back_2N: jax.Array,
) -> tuple[jax.Array]:
    """In one pass, where autodiff goes back stack by stack, each with a state of its own."""
    bits = back_2N.reshape(2, *[2] * sum(sizes))
    axes = [*(1 + qubit for qubit in controls[0]), *(1 + sizes[0] + qubit for qubit in controls[1])]
    found = []
    for values in np.ndindex(*[2] * len(axes)):
        index: list[Any] = [slice(None)] * bits.ndim
        for axis, value in zip(axes, values, strict=True):
            index[axis] = value
        found.append(bits[tuple(index)].reshape(2, 2 ** (sizes[0] - len(controls[0])), -1))
    shape = (2 ** len(controls[0]), 2 ** len(controls[1]), *found[0].shape)
    return (jnp.stack(found).reshape(shape),)


_woven.defvjp(_woven_forward, _woven_backward)


def _put_back(apart: jax.Array, controls: Sequence[int], *, axis: int) -> jax.Array:
    """`[K, 2, A, B]` with the values K of controls among the bits of A (axis -2) or B (-1)."""
    ordered = sorted(controls)
    now = apart.reshape(*[2] * len(controls), *apart.shape[1:])
    now = jnp.moveaxis(now, [controls.index(qubit) for qubit in ordered], range(len(controls)))
    parts = list(now.reshape(apart.shape))
    for qubit in ordered:
        # With the lower ones back, as many bits are before it as in the end.
        pairs = zip(parts[: len(parts) // 2], parts[len(parts) // 2 :], strict=True)
        parts = [_stacked(pair, 2**qubit, axis) for pair in pairs]
    return parts[0]


def _stacked(pair: Sequence[jax.Array], before: int, axis: int) -> jax.Array:
    """Two parts as the two values of one more bit, behind so many numbers of an axis."""
    planes, rows, columns = pair[0].shape
    if axis == -1:
        apart = [x.reshape(planes, rows, before, -1) for x in pair]
        return jnp.stack(apart, 3).reshape(planes, rows, -1)
    apart = [x.reshape(planes, before, -1, columns) for x in pair]
    return jnp.stack(apart, 2).reshape(planes, -1, columns)
