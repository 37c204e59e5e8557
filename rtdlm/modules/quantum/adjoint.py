"""A state through rounds of blocks, and back again without having kept any of it.

A state is two planes, real and imaginary, so that a block of k qubits is one real orthogonal matrix
M of 2^(k + 1) rows: one wide product y = M x of the state with the block's qubits in front. Copies
bring them there, in an order known beforehand. Going back, x = M^T y is computed rather than kept
(the adjoint method, arXiv 2009.02823):

    dL/dx = M^T dL/dy        dL/dM = dL/dy x^T

so that memory does not grow with depth: it is the state, its cotangent and what is being made of
them. Matrices that are not orthogonal have no such gradient.

Axes: N = 2^n amplitudes, R rounds, E = 2^(k + 1) rows of a block, W = 2^(n - k) columns.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

Order = tuple[int, ...]
"""Qubits by the place of their bit, the most significant first."""


def orders_of(num_qubits: int, blocks: Sequence[Sequence[int]]) -> tuple[Order, ...]:
    """The order during each of the blocks, given by their qubits, where 0, 1, ... is that before.

    A block's qubits come to the front as they follow one another; those that leave it go to the
    back: with blocks along a chain, a round is a few turns of the axes and ends where it began.
    """
    order, front = tuple(range(num_qubits)), frozenset[int]()
    orders = []
    for block in blocks:
        chosen = frozenset(block)
        order = tuple(
            sorted(order, key=lambda qubit: 0 if qubit in chosen else 1 + (qubit in front))
        )
        front = chosen
        orders.append(order)
    return tuple(orders)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def evolve(orders: tuple[Order, ...], given: list[jax.Array], planes_2N: jax.Array) -> jax.Array:
    """Planes after all rounds of blocks.

    Args:
        orders: of the qubits during each block, which acts on the first of them.
        given: the real form of each block, `[R, E, E]`, orthogonal.
        planes_2N: the real and the imaginary part of all amplitudes.

    Returns:
        `[2, N]`, differentiable by `given` and `planes_2N`.
    """

    def step(planes_2N: jax.Array, given: list[jax.Array]) -> tuple[jax.Array, None]:
        order = canonical = tuple(range(len(orders[0])))
        for matrix_EE, after in zip(given, orders, strict=True):
            planes_2N = _times(matrix_EE, _moved(planes_2N, order, after))
            order = after
        return _moved(planes_2N, order, canonical), None

    return jax.lax.scan(step, planes_2N, given)[0]


def _forward(
    orders: tuple[Order, ...], given: list[jax.Array], planes_2N: jax.Array
) -> tuple[jax.Array, tuple[list[jax.Array], jax.Array]]:
    end_2N = evolve(orders, given, planes_2N)
    return end_2N, (given, end_2N)


def _backward(
    orders: tuple[Order, ...], kept: tuple[list[jax.Array], jax.Array], back_2N: jax.Array
) -> tuple[list[jax.Array], jax.Array]:
    given, end_2N = kept
    canonical = tuple(range(len(orders[0])))

    def step(
        pair: tuple[jax.Array, jax.Array], given: list[jax.Array]
    ) -> tuple[tuple[jax.Array, jax.Array], list[jax.Array]]:
        order, found = canonical, []
        for matrix_EE, before in zip(reversed(given), reversed(orders), strict=True):
            planes_2N, back_2N = (_moved(x, order, before) for x in pair)
            planes_2N = _times(matrix_EE.T, planes_2N)
            wide = [x.reshape(len(matrix_EE), -1) for x in (back_2N, planes_2N)]
            found.append(jnp.matmul(wide[0], wide[1].T, precision="highest"))
            pair, order = (planes_2N, _times(matrix_EE.T, back_2N)), before
        planes_2N, back_2N = (_moved(x, order, canonical) for x in pair)
        return (planes_2N, back_2N), found[::-1]

    (_, back_2N), found = jax.lax.scan(step, (end_2N, back_2N), given, reverse=True)
    return found, back_2N


evolve.defvjp(_forward, _backward)


def _times(matrix_EE: jax.Array, planes_2N: jax.Array) -> jax.Array:
    """A block on the qubits in front."""
    wide_EW = planes_2N.reshape(len(matrix_EE), -1)
    return jnp.matmul(matrix_EE, wide_EW, precision="highest").reshape(planes_2N.shape)


def _moved(planes_2N: jax.Array, before: Order, after: Order) -> jax.Array:
    """The same state with its qubits in another order."""
    runs = [[after[0]]]
    for qubit in after[1:]:
        # Qubits that stay side by side are one axis: fewer axes, longer copies.
        follows = before.index(qubit) == before.index(runs[-1][-1]) + 1
        runs[-1].append(qubit) if follows else runs.append([qubit])
    sources = sorted(range(len(runs)), key=lambda i: before.index(runs[i][0]))
    apart = planes_2N.reshape(2, *(2 ** len(runs[i]) for i in sources))
    axes = [1 + sources.index(i) for i in range(len(runs))]
    # Without the barrier the product would read the state unmoved, which is slower than the copy.
    moved = jax.lax.optimization_barrier(jnp.transpose(apart, (0, *axes)))
    return moved.reshape(planes_2N.shape)
