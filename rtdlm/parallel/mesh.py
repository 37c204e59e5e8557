"""The device mesh: axes `data`, `fsdp`, `context` and `tensor`.

`data` repeats parameters and splits batches; `fsdp` splits both; `context` splits the tokens of a
row; `tensor` splits heads, hidden features and the vocabulary. A laptop is the mesh of one device.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from rtdlm.config import MeshConfig, UserError

AXES = ("data", "fsdp", "context", "tensor")
BATCH_AXES = ("data", "fsdp")


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh that `config` asks for over `devices` (None: all there are).

    Raises:
        UserError: the axes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    fixed = config.fsdp * config.context * config.tensor
    data = len(devices) // fixed if config.data == -1 else config.data
    if data * fixed != len(devices) or data == 0:
        raise UserError(
            f"mesh data={config.data} x fsdp={config.fsdp} x context={config.context} x "
            f"tensor={config.tensor} does not fit {len(devices)} devices; choose axes that "
            f"multiply to {len(devices)}"
        )
    shape = (data, config.fsdp, config.context, config.tensor)
    # Auto axes: under explicit ones the plain einsums of a Haiku module would have to be typed.
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """How a batch's arrays lie: rows over all batch axes, their tokens over `context`."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES, "context"))


def under(mesh: Mesh, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, called with the mesh set, so that sharding hints inside find it."""

    @wraps(function)
    def call(*args: Any) -> Any:
        with jax.set_mesh(mesh):
            return function(*args)

    return call


def check_batch(mesh: Mesh, *, rows: int) -> None:
    """Raises UserError unless `rows`, those of one micro-batch, split evenly over the mesh."""
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    if rows % ways:
        raise UserError(
            f"a micro-batch of {rows} rows does not split over the mesh's data x fsdp = {ways} "
            f"devices; make batch_size / accumulate_steps a multiple of {ways}"
        )
