"""Matrices that lie in parts: put together whole, each on one device, and taken apart again.

    a part of every matrix  --all-to-all-->  S / n matrices  --all-to-all-->  parts
         [S, M/f, N/t]                         [S/n, M, N]                [S, M/f, N/t]

For n = f t devices that split the rows and the columns. What needs whole matrices is thus computed
once, instead of on every device after a gather (as in arXiv 2502.16982, algorithm 1) or piece by
piece with a gather for every product (as XLA's partitioner has it). Matrices of one shape, from
whichever array, share one stack, so that few places of it stay empty.

Axes: S stacked matrices, M rows, N >= M columns; m, n their parts on a device; W devices that split
a matrix, K matrices that each of them has whole.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from math import prod
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from rtdlm.parallel.constrain import axis_size

Sides = tuple[tuple[int, ...], tuple[int, ...]]
"""Axes of an array that make rows and columns, counted from the end; others stack matrices."""


class _Side(NamedTuple):
    """Rows or columns: how many, and the mesh axes that split them."""

    size: int
    over: tuple[str, ...]


class _Form(NamedTuple):
    """What matrices have in common that lie in one stack."""

    rows: _Side
    columns: _Side
    dtype: jnp.dtype


class _Place(NamedTuple):
    """How an array's matrices come to that form."""

    form: _Form
    turned: bool
    spec: PartitionSpec
    sides: Sides


def are_apart(spec: PartitionSpec, sides: Sides) -> bool:
    """Whether matrices of an array that lies so are split over several devices."""
    axes = dict(zip(range(-len(spec), 0), spec, strict=True))
    return any(axis_size(axes[dim]) > 1 for side in sides for dim in side if axes[dim] is not None)


def on_whole_matrices(
    function: Callable[[jax.Array], jax.Array],
    arrays: Sequence[jax.Array],
    *,
    specs: Sequence[PartitionSpec],
    sides: Sequence[Sides],
) -> list[jax.Array]:
    """`function` of every matrix in `arrays`, computed where the matrix is whole.

    Args:
        function: `[K, M, N]` -> `[K, M, N]`, of each matrix for itself; it may give another format,
            in which results then travel. Turning a matrix, or reordering its rows or columns, must
            do the same to its result, and zeros, which fill the stacks up, must do no harm.
        arrays: of any number of matrices each.
        specs: how each array lies, and its result too; all of them `are_apart`.
        sides: of each array.
    """
    places = [_place(*each) for each in zip(arrays, specs, sides, strict=True)]
    # Inside, every device is alone and an axis has no size.
    sizes = dict(jax.sharding.get_abstract_mesh().shape)

    def local(parts: list[jax.Array]) -> list[jax.Array]:
        results = list(parts)
        for form in dict.fromkeys(place.form for place in places):
            members = [number for number, place in enumerate(places) if place.form == form]
            stacks = [_stacked(parts[number], places[number]) for number in members]
            done = _exchanged(function, jnp.concatenate(stacks), form, sizes)
            ends = list(accumulate(len(stack) for stack in stacks))
            for number, stack in zip(members, jnp.split(done, ends[:-1]), strict=True):
                results[number] = _unstacked(stack, parts[number].shape, places[number])
        return results

    each = [place.spec for place in places]
    return jax.shard_map(local, in_specs=(each,), out_specs=each, check_vma=False)(list(arrays))


def stack_bytes(
    arrays: Sequence[jax.ShapeDtypeStruct],
    *,
    specs: Sequence[PartitionSpec],
    sides: Sequence[Sides],
    sizes: Mapping[str, int],
) -> dict[tuple[str, ...], int]:
    """What `on_whole_matrices` has on each device of whole matrices, filled places among them.

    Args:
        arrays: shapes of any number of matrices each.
        specs: how each array lies.
        sides: of each array.
        sizes: devices along each mesh axis.

    Returns:
        Mesh axes that split matrices -> bytes of the stacks that travel over them.
    """
    counts: dict[_Form, int] = {}
    for array, spec, side in zip(arrays, specs, sides, strict=True):
        form = _place(array, spec, side).form
        count = prod(array.shape) // (form.rows.size * form.columns.size)
        counts[form] = counts.get(form, 0) + count
    found: dict[tuple[str, ...], int] = {}
    for form, count in counts.items():
        over = form.rows.over + form.columns.over
        own = -(-count // prod(sizes[axis] for axis in over))
        size = own * form.rows.size * form.columns.size * form.dtype.itemsize
        found[over] = found.get(over, 0) + size
    return found


def _place(array: jax.Array | jax.ShapeDtypeStruct, spec: PartitionSpec, sides: Sides) -> _Place:
    def side(dims: tuple[int, ...]) -> _Side:
        over = tuple(spec[dim] for dim in dims if spec[dim] is not None)
        return _Side(prod(array.shape[dim] for dim in dims), over)

    rows, columns = map(side, sides)
    # Square ones turn so that those split along rows and along columns come to one form.
    turned = rows > columns
    form = _Form(columns, rows, array.dtype) if turned else _Form(rows, columns, array.dtype)
    return _Place(form, turned, spec, sides)


def _stacked(part: jax.Array, place: _Place) -> jax.Array:
    """A device's part of an array as `[S, m, n]`."""
    rows, columns = (prod(part.shape[dim] for dim in dims) for dims in place.sides)
    stack = part.reshape(-1, rows, columns)
    return jnp.swapaxes(stack, -1, -2) if place.turned else stack


def _unstacked(stack: jax.Array, shape: tuple[int, ...], place: _Place) -> jax.Array:
    return (jnp.swapaxes(stack, -1, -2) if place.turned else stack).reshape(shape)


def _exchanged(
    function: Callable[[jax.Array], jax.Array],
    stack_Smn: jax.Array,
    form: _Form,
    sizes: dict[str, int],
) -> jax.Array:
    """`function` of the matrices whose parts lie in the stacks of the devices that split them."""
    count, m, n = stack_Smn.shape
    row_ways, column_ways = (prod(sizes[axis] for axis in side.over) for side in form[:2])
    ways = row_ways * column_ways
    own = -(-count // ways)
    filled = jnp.pad(stack_Smn, ((0, own * ways - count), (0, 0), (0, 0)))
    axes = form.rows.over + form.columns.over
    parts_WKmn = jax.lax.all_to_all(filled.reshape(ways, own, m, n), axes, 0, 0)
    # Where a side is of several dimensions and not the first is split, its rows are now in another
    # order than in the array; on the way back they take the same way.
    parts = parts_WKmn.reshape(row_ways, column_ways, own, m, n).transpose(2, 0, 3, 1, 4)
    whole_KMN = function(parts.reshape(own, row_ways * m, column_ways * n))
    parts = whole_KMN.reshape(own, row_ways, m, column_ways, n).transpose(1, 3, 0, 2, 4)
    done_WKmn = jax.lax.all_to_all(parts.reshape(ways, own, m, n), axes, 0, 0)
    return done_WKmn.reshape(own * ways, m, n)[:count]
