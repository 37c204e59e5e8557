"""Meshes, the one table that says how arrays lie on them, and the cache of compiled programs."""

from rtdlm.parallel.compilation import keep_compiled_programs
from rtdlm.parallel.constrain import axis_size, constrain, on_one_device
from rtdlm.parallel.devices import fastest_format
from rtdlm.parallel.mesh import BATCH_AXES, batch_sharding, check_batch, make_mesh, under
from rtdlm.parallel.rules import is_stacked, own_axes, partition_spec, path_name

__all__ = [
    "BATCH_AXES",
    "axis_size",
    "batch_sharding",
    "check_batch",
    "constrain",
    "fastest_format",
    "is_stacked",
    "keep_compiled_programs",
    "make_mesh",
    "on_one_device",
    "own_axes",
    "partition_spec",
    "path_name",
    "under",
]
