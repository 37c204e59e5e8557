"""Meshes and the one table that says how arrays lie on them."""

from rtdlm.parallel.constrain import constrain
from rtdlm.parallel.mesh import BATCH_AXES, batch_sharding, check_batch, make_mesh, under
from rtdlm.parallel.rules import own_axes, partition_spec, path_name

__all__ = [
    "BATCH_AXES",
    "batch_sharding",
    "check_batch",
    "constrain",
    "make_mesh",
    "own_axes",
    "partition_spec",
    "path_name",
    "under",
]
