"""The device mesh: axes `data`, `fsdp`, `expert`, `context` and `tensor`.

`data` repeats parameters and splits batches; `fsdp` splits both; `expert` splits batches and
experts; `context` splits the tokens of a row; `tensor` splits heads, hidden features and the
vocabulary. A laptop is the mesh of one device.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from math import prod
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from rtdlm.config import AGIConfig, MeshConfig, UserError
from rtdlm.config.mesh import AXES, resolve_mesh

BATCH_AXES = ("data", "fsdp", "expert")


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of those axes over `devices` (None: all there are); see `mesh_of` for a strategy's.

    Raises:
        UserError: the axes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = {name: getattr(config, name) for name in AXES}
    fixed = prod(sizes[name] for name in AXES if name != "data")
    if config.data == -1:
        sizes["data"] = len(devices) // fixed
    if sizes["data"] * fixed != len(devices) or sizes["data"] == 0:
        named = " x ".join(f"{name}={getattr(config, name)}" for name in AXES)
        raise UserError(
            f"mesh {named} does not fit {len(devices)} devices; choose axes that multiply to "
            f"{len(devices)}"
        )
    shape = tuple(sizes.values())
    # Auto axes: under explicit ones the plain einsums of a Haiku module would have to be typed.
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def mesh_of(config: AGIConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh that the strategy and the axes of `config` ask for over `devices`.

    Raises:
        UserError: they do not fit the number of devices, or the strategy is still `auto`.
    """
    devices = jax.devices() if devices is None else devices
    return make_mesh(resolve_mesh(config, len(devices)), devices)


def batch_sharding(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """How a batch's arrays lie: rows over all batch axes, their tokens over `context`."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES, "context"))


def under(mesh: Mesh, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, called with the mesh set, so that sharding hints inside find it."""

    @wraps(function)
    def call(*args: Any) -> Any:
        with jax.set_mesh(mesh):
            return function(*args)

    return call


def check_batch(mesh: Mesh | AbstractMesh, *, rows: int) -> None:
    """Raises UserError unless `rows`, those of one micro-batch, split evenly over the mesh."""
    ways = prod(mesh.shape[axis] for axis in BATCH_AXES)
    if rows % ways:
        axes = " x ".join(axis for axis in BATCH_AXES if axis != "expert" or mesh.shape[axis] > 1)
        raise UserError(
            f"a micro-batch of {rows} rows does not split over the mesh's {axes} = {ways} "
            f"devices; make batch_size / accumulate_steps a multiple of {ways}"
        )
