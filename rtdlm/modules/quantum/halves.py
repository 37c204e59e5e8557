"""The first rounds of a circuit on two halves of its qubits, while few gates have crossed the cut:

    |s> = sum over r of |a_r> |b_r>        a on the first half of the qubits, b on the second

A gate on one half acts on all its |a_r>, at the cost of 2^(n/2) R amplitudes in place of 2^n. Of a
gate across, one qubit must be kept, as a control is: U = |0><0| U_0 + |1><1| U_1. It is left open:
the other half goes on in two variants, one for either value of that qubit. When a gate is about to
change the qubit, the choice is closed: there are twice as many terms, and one variant again. What
is open in the end costs nothing more: the state is put together by quarters (Schroedinger-Feynman
simulation, arXiv 1807.10749, with the last crossings left out of the sum).

A circuit whose gates cross in pairs of neighbours has 2^(crossings of a round) times as many terms
with every round, so that the first few are nearly free; `halves_plan.rounds_in_halves` says how
many pay.

Axes: N = 2^n amplitudes, V variants, S = 2^(m + t) amplitudes of a half of m qubits in 2^t terms.
"""

from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rtdlm.modules.quantum.adjoint import evolve, orders_of
from rtdlm.modules.quantum.circuit import Circuit, fixed_matrix
from rtdlm.modules.quantum.fusion import block_matrix, real_form
from rtdlm.modules.quantum.halves_plan import (
    Apply,
    Choice,
    Close,
    Join,
    Permute,
    Step,
    plan,
    sizes_of,
    stand_ins,
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
    blocks_of = cache(lambda each: _blocks(circuit, made, each))
    for step in steps:
        match step:
            case Apply():
                every = blocks_of(step.of_any_round)
                given = [block_RVEE[step.round] for block_RVEE in every]
                halves[step.half] = _applied(step, given, halves[step.half])
            case Permute():
                halves[step.half] = _permuted(circuit, step, halves[step.half])
            case Close():
                halves = _closed(sizes, step.controls, halves)
            case Join():
                return _joined(sizes, step, halves)
    raise AssertionError("a plan ends in a join")


def made_blocks(
    circuit: Circuit, made: Sequence[jax.Array], steps: Sequence[Step]
) -> list[list[jax.Array]]:
    """All matrices that `steps` multiply by, in their real form; arguments as in `run_halves`."""
    each = {step.of_any_round for step in steps if isinstance(step, Apply)}
    return [_blocks(circuit, made, step) for step in each]


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
