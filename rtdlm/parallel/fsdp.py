"""What is split over `fsdp`: weights gathered for products, gradients scattered (arXiv 1910.02054).

                                                         bytes of w that a device sends
    y = x w          gathers w (`fsdp`)                  all-gather        (n - 1) / n
    dx = dy w^T      gathers w again (`fsdp`)            all-gather        (n - 1) / n
    dw = x^T dy      keeps a part of the sum             reduce-scatter    (n - 1) / n
    w'               is gathered (`zero1`, `zero2`)      all-gather        (n - 1) / n

Of a table that is looked up, features are split: see `rtdlm.models.embed`.

`shard_map` says so. Left to itself, XLA's partitioner adds gradients up whole, on processors and on
most TPU slices, and then cuts: twice the bytes.

Devices that form a cube go along its sides, see `rtdlm.parallel.cube`.
Where something is split over `tensor` or `context`, all is left to the partitioner.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from rtdlm.config.mesh import MeshStrategy
from rtdlm.parallel.constrain import axis_size, on_one_device, row_groups
from rtdlm.parallel.cube import gathered_along, scattered_along, sides_of
from rtdlm.parallel.layout import Layout, layout_of
from rtdlm.parallel.mesh import BATCH_AXES
from rtdlm.parallel.rules import partition_spec, path_name

AXIS = "fsdp"


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
    sides = sides_of(mesh, AXIS) if alone else ()
    token = _way.set(_Way(sides, layout_of(strategy), recomputed) if sides else None)
    try:
        yield
    finally:
        _way.reset(token)


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
    part = scattered_along(term, _found().sides, axis=AXIS, dim=dim)
    sizes = jax.sharding.get_abstract_mesh().shape
    others = tuple(axis for axis in BATCH_AXES if axis != AXIS and sizes[axis] > 1)
    return jax.lax.psum(part, others) if others else part


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
    return gathered_along(part, _found().sides, axis=AXIS, dim=dim)
