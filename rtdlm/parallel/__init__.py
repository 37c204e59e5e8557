"""Meshes and the one table that says how arrays lie on them."""

from rtdlm.parallel.constrain import constrain
from rtdlm.parallel.mesh import BATCH_AXES, check_batch, make_mesh
from rtdlm.parallel.rules import partition_spec, path_name

__all__ = ["BATCH_AXES", "check_batch", "constrain", "make_mesh", "partition_spec", "path_name"]
