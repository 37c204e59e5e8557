"""What is split over `fsdp`: weights gathered for products, gradients scattered (arXiv 1910.02054).

                                                         bytes of w that a device sends
    y = x w          gathers w (`fsdp`)                  all-gather        (n - 1) / n
    dx = dy w^T      gathers w again (`fsdp`)            all-gather        (n - 1) / n
    dw = x^T dy      keeps a part of the sum             reduce-scatter    (n - 1) / n
    w'               is gathered (`zero1`, `zero2`)      all-gather        (n - 1) / n

Of a table that is looked up, features are split: see `rtdlm.models.embed`.

`shard_map` says so. Left to itself, XLA's partitioner adds gradients up whole, on processors and on
most TPU slices, and then cuts: twice the bytes.

A TPU's compiler gathers and scatters among devices in a row. Over a cube, such as v5p:4x4x4, it
adds up arrays that are zero but for one device's part instead: twice the bytes again. So devices
that form a cube go along z, then y, then x (sums the other way round), which sends no more:

    (a - 1) / a  +  (b - 1) / (a b)  +  (c - 1) / (a b c)  =  (n - 1) / n        n = a b c

Where something is split over `tensor` or `context`, all is left to the partitioner.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from rtdlm.config.mesh import MeshStrategy
from rtdlm.parallel.constrain import axis_size, on_one_device, row_groups
from rtdlm.parallel.layout import Layout, layout_of
from rtdlm.parallel.mesh import BATCH_AXES
from rtdlm.parallel.rules import partition_spec, path_name

AXIS = "fsdp"
ROWS_OF_TILE = 8


class _Way(NamedTuple):
    """How arrays travel."""

    sides: tuple[int, ...]
    layout: Layout
    recomputed: bool


_way: ContextVar[_Way | None] = ContextVar("way", default=None)


@contextmanager
def gathering(
    mesh: Mesh, strategy: MeshStrategy | None, *, recomputed: bool = False
) -> Iterator[None]:
    """What is traced within gathers and scatters what `strategy` splits over `fsdp`.

    Args:
        mesh: the run's.
        strategy: the run's.
        recomputed: whether the backward pass computes products again. What it gathers for them
            serves their gradients, too.
    """
    alone = mesh.shape["tensor"] == mesh.shape["context"] == 1
    sides = sides_of(mesh) if alone else ()
    token = _way.set(_Way(sides, layout_of(strategy), recomputed) if sides else None)
    try:
        yield
    finally:
        _way.reset(token)


def sides_of(mesh: Mesh) -> tuple[int, ...]:
    """Sides of the cube that every group of devices along `fsdp` is, slowest first.

    Returns:
        One side for a row, or where they are in another order than a cube's; () for one device.
    """
    along = np.moveaxis(mesh.devices, mesh.axis_names.index(AXIS), -1)
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


def split_of(path: str, shape: tuple[int, ...]) -> int | None:
    """The dimension along which the gradient of the parameter at `path` is scattered.

    Args:
        path: the parameter's, as `partition_spec` takes it.
        shape: the parameter's.

    Returns:
        None where all is left to XLA.
    """
    way = _way.get()
    if way is None or not way.layout.gradients or on_one_device():
        return None
    spec = partition_spec(path, shape, jax.sharding.get_abstract_mesh())
    return spec.index(AXIS) if AXIS in spec else None


def split_along(dim: int) -> PartitionSpec:
    """How an array lies of which dimension `dim` is split, and nothing else."""
    return PartitionSpec(*(None,) * dim, AXIS)


def weight_lies(dim: int) -> PartitionSpec:
    """How a parameter lies whose gradient is scattered along `dim`."""
    return split_along(dim) if _found().layout.parameters else PartitionSpec()


def gathered(weight: jax.Array, dim: int, *, after: jax.Array | None = None) -> jax.Array:
    """The whole of a parameter of which this device has what `weight_lies` says, in `shard_map`.

    Args:
        weight: the device's part.
        dim: along which it is split.
        after: what a backward pass begins with.
    """
    way = _found()
    if not way.layout.parameters:
        return weight
    if after is not None and not way.recomputed:
        # Of layers in a row XLA would else take what the forward pass gathered, and hold it until
        # then. (It drops barriers on a CPU before; where `after` is infinite this is NaN, and the
        # step changes nothing either way.)
        weight = weight + 0.0 * jnp.ravel(after)[0].astype(weight.dtype)
    return _gathered(weight, dim)


def scattered(term: jax.Array, dim: int) -> jax.Array:
    """A device's part along `dim` of the sum of all devices' terms; inside `shard_map`."""
    # Parts along an axis of their own: a TPU cuts no tile, which is of the last two axes. Where a
    # part is thinner than a tile of eight rows, it is laid out as one.
    ways = prod(_found().sides)
    shape = (*term.shape[:dim], ways, term.shape[dim] // ways, *term.shape[dim + 1 :])
    parts = jnp.moveaxis(term.reshape(shape), dim, 0)
    part = parts.shape[1:]
    if min(part) < ROWS_OF_TILE and prod(part) % ROWS_OF_TILE == 0:
        parts = parts.reshape(ways, ROWS_OF_TILE, -1)
    for lines in _lines():
        parts = jax.lax.psum_scatter(parts, AXIS, axis_index_groups=lines, tiled=True)
    term = parts.reshape(part)
    sizes = jax.sharding.get_abstract_mesh().shape
    others = tuple(axis for axis in BATCH_AXES if axis != AXIS and sizes[axis] > 1)
    return jax.lax.psum(term, others) if others else term


def every_row(ids_BT: jax.Array) -> jax.Array:
    """Integers of a batch, with the rows of all devices along `fsdp` on each of them."""
    if _way.get() is None or row_groups(len(ids_BT)) == 1 or axis_size("expert") > 1:
        return ids_BT
    return jax.shard_map(
        lambda part: _gathered(part, 0),
        in_specs=PartitionSpec(BATCH_AXES),
        out_specs=PartitionSpec("data"),
        check_vma=False,
    )(ids_BT)


def whole_again(params: Any) -> Any:
    """Updated parameters on every device that `layout.parameters` says has them whole."""
    way = _way.get()
    if way is None or way.layout.parameters or on_one_device():
        return params
    mesh = jax.sharding.get_abstract_mesh()

    def lies(path: tuple[Any, ...], leaf: jax.Array) -> PartitionSpec:
        return partition_spec(path_name(path), leaf.shape, mesh)

    def whole(spec: PartitionSpec) -> PartitionSpec:
        return PartitionSpec(*(None if axis == AXIS else axis for axis in spec))

    def gather(part: jax.Array, spec: PartitionSpec) -> jax.Array:
        return _gathered(part, spec.index(AXIS)) if AXIS in spec else part

    specs = jax.tree_util.tree_map_with_path(lies, params)
    return jax.shard_map(
        lambda parts: jax.tree.map(gather, parts, specs),
        in_specs=(specs,),
        out_specs=jax.tree.map(whole, specs),
        check_vma=False,
    )(params)


def _found() -> _Way:
    way = _way.get()
    assert way is not None, "outside of `gathering`"
    return way


def _gathered(part: jax.Array, dim: int) -> jax.Array:
    for lines in reversed(_lines()):
        part = jax.lax.all_gather(part, AXIS, axis_index_groups=lines, axis=dim, tiled=True)
    return part


def _lines() -> list[list[list[int]]]:
    """For every side, slowest first, the groups of devices that are a line along it."""
    sides = _found().sides
    numbers = np.arange(prod(sides)).reshape(sides)
    return [
        np.moveaxis(numbers, side, -1).reshape(-1, sides[side]).tolist()
        for side in range(len(sides))
    ]
