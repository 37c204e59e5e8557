"""Sharding hints inside modules: the identity where no mesh is set."""

from math import prod

import jax
from jax.sharding import PartitionSpec

from rtdlm.parallel.mesh import BATCH_AXES


def constrain(x: jax.Array, *axes: str | tuple[str, ...] | None) -> jax.Array:
    """Hints that dimension i of `x` lies along mesh axis `axes[i]`.

    `"batch"` stands for all axes that split batches, `"any"` for those that XLA chooses. On one
    device, or with no mesh set, `x` is returned as it is, so that a module runs untouched in a
    notebook.
    """
    if on_one_device():
        return x
    words = {"batch": BATCH_AXES, "any": PartitionSpec.UNCONSTRAINED}
    spec = (words.get(axis, axis) if isinstance(axis, str) else axis for axis in axes)
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec))


def axis_size(axis: str) -> int:
    """Devices along mesh axis `axis`; 1 where no mesh is set."""
    return 1 if on_one_device() else jax.sharding.get_abstract_mesh().shape[axis]


def row_groups(rows: int) -> int:
    """In how many parts `rows` rows of a batch lie on devices; 1 where they do not divide."""
    ways = prod(map(axis_size, BATCH_AXES))
    return ways if rows % ways == 0 else 1


def on_one_device() -> bool:
    """Whether no mesh of several devices is set, or each of them runs by itself (`pmap`)."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.empty or mesh.size == 1 or not mesh.auto_axes
