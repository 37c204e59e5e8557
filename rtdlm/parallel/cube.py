"""Gathers and sums over a cube of devices, along one of its sides after the other.

A TPU's compiler gathers, and scatters a sum, among devices in a row. Over a cube, such as
v5p:4x4x4, it adds up arrays that are zero but for one device's part, or adds up all and cuts: twice
the bytes. Along z, then y, then x (sums the other way round) it does as it is told, and one device
of n = a b c sends no more than in a row of n:

    (a - 1) / a  +  (b - 1) / (a b)  +  (c - 1) / (a b c)  =  (n - 1) / n
"""

from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

ROWS_OF_TILE = 8


def sides_of(mesh: Mesh, axis: str) -> tuple[int, ...]:
    """Sides of the cube that every group of devices along `axis` is, slowest first.

    Returns:
        One side for a row, or where they are in another order than a cube's; () for one device.
    """
    along = np.moveaxis(mesh.devices, mesh.axis_names.index(axis), -1)
    count = along.shape[-1]
    found = {_sides_of_group(group.tolist()) for group in along.reshape(-1, count)}
    return found.pop() if len(found) == 1 else (count,)


def _sides_of_group(devices: list[Any]) -> tuple[int, ...]:
    count = len(devices)
    places = np.array([getattr(device, "coords", ()) for device in devices])
    if count == 1:
        return ()
    # Chips of two devices each have two in one place.
    if places.size == 0 or len(np.unique(places, axis=0)) < count:
        return (count,)
    places -= places.min(axis=0)
    sizes = places.max(axis=0) + 1
    first_step = [int(np.argmax(places[:, dim] > 0)) for dim in range(len(sizes))]
    order = sorted(np.flatnonzero(sizes > 1).tolist(), key=lambda dim: -first_step[dim])
    sides = tuple(int(sizes[dim]) for dim in order)
    if prod(sides) != count:
        return (count,)
    in_order = np.stack(np.unravel_index(np.arange(count), sides), axis=1)
    return sides if np.array_equal(places[:, order], in_order) else (count,)


def gathered_along(part: jax.Array, sides: tuple[int, ...], *, axis: str, dim: int) -> jax.Array:
    """The whole of what is split along `dim` over mesh axis `axis`; inside `shard_map`."""
    for lines in reversed(_lines(sides)):
        part = jax.lax.all_gather(part, axis, axis_index_groups=lines, axis=dim, tiled=True)
    return part


def scattered_along(term: jax.Array, sides: tuple[int, ...], *, axis: str, dim: int) -> jax.Array:
    """A device's part along `dim` of the sum over mesh axis `axis`; inside `shard_map`."""
    # Parts along an axis of their own: a TPU cuts no tile, which is of the last two axes. Where a
    # part is thinner than a tile of eight rows, it is laid out as one.
    ways = prod(sides)
    shape = (*term.shape[:dim], ways, term.shape[dim] // ways, *term.shape[dim + 1 :])
    parts = jnp.moveaxis(term.reshape(shape), dim, 0)
    part = parts.shape[1:]
    if min(part) < ROWS_OF_TILE and prod(part) % ROWS_OF_TILE == 0:
        parts = parts.reshape(ways, ROWS_OF_TILE, -1)
    for lines in _lines(sides):
        parts = jax.lax.psum_scatter(parts, axis, axis_index_groups=lines, tiled=True)
    return parts.reshape(part)


def _lines(sides: tuple[int, ...]) -> list[list[list[int]]]:
    """For every side, slowest first, the groups of devices that are a line along it."""
    numbers = np.arange(prod(sides)).reshape(sides)
    return [
        np.moveaxis(numbers, side, -1).reshape(-1, length).tolist()
        for side, length in enumerate(sides)
    ]
