"""Meshes, the one table that says how arrays lie on them, and the cache of compiled programs."""

from rtdlm.parallel.compilation import keep_compiled_programs
from rtdlm.parallel.constrain import axis_size, constrain, on_one_device, row_groups
from rtdlm.parallel.devices import fastest_format, target_platform
from rtdlm.parallel.fsdp import (
    every_row,
    gathered,
    gathering,
    scattered,
    split_along,
    split_of,
    weight_lies,
    whole_again,
)
from rtdlm.parallel.heads import heads_split, on_own_heads
from rtdlm.parallel.hosts import Hosts, find_hosts, join
from rtdlm.parallel.layout import Layout, layout_of
from rtdlm.parallel.matrices import are_apart, on_whole_matrices, stack_bytes
from rtdlm.parallel.mesh import (
    BATCH_AXES,
    batch_sharding,
    check_batch,
    make_mesh,
    mesh_of,
    under,
)
from rtdlm.parallel.peers import Peers
from rtdlm.parallel.placing import put, put_rows
from rtdlm.parallel.rules import is_stacked, memory_spec, own_axes, partition_spec, path_name
from rtdlm.parallel.scalable import ScalableMesh
from rtdlm.parallel.slices import slice_of
from rtdlm.parallel.watchdog import Watchdog

__all__ = [
    "BATCH_AXES",
    "Hosts",
    "Layout",
    "Peers",
    "ScalableMesh",
    "Watchdog",
    "are_apart",
    "axis_size",
    "batch_sharding",
    "check_batch",
    "constrain",
    "every_row",
    "fastest_format",
    "find_hosts",
    "gathered",
    "gathering",
    "heads_split",
    "is_stacked",
    "join",
    "keep_compiled_programs",
    "layout_of",
    "make_mesh",
    "memory_spec",
    "mesh_of",
    "on_one_device",
    "on_own_heads",
    "on_whole_matrices",
    "own_axes",
    "partition_spec",
    "path_name",
    "put",
    "put_rows",
    "row_groups",
    "scattered",
    "slice_of",
    "split_along",
    "split_of",
    "stack_bytes",
    "target_platform",
    "under",
    "weight_lies",
    "whole_again",
]
