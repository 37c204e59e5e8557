"""What the compiler of steps, of training and of evaluation, is told beyond its defaults.

On TPUs whose parameters are split: that arrays are gathered, and while products are computed. By
itself, XLA's TPU compiler gathers on some slices only; on a cube such as v5p:4x4x4 each device lays
its part among zeros and all are added up, which sends twice as much (docs/scaling.md; known from
https://github.com/pytorch/xla/pull/6528, which says of an earlier compiler that on v5 what the
second of these options turns on was not stable; MaxText's scripts for v5p set it). Programs were
compiled so and counted; no TPU has run them here.
"""

import os

from jax.sharding import Mesh

ON_TPU = (
    "xla_enable_async_all_gather",
    "xla_tpu_enable_async_collective_fusion_fuse_all_gather",
    "xla_tpu_prefer_async_allgather_to_allreduce",
)
"""Each of them is needed for the others to have an effect."""


def step_options(mesh: Mesh) -> dict[str, bool] | None:
    """Options for `jax.jit` of a step on `mesh`; what LIBTPU_INIT_ARGS names is left to it."""
    if mesh.devices.flat[0].platform != "tpu" or mesh.shape["fsdp"] == 1:
        return None
    words = os.environ.get("LIBTPU_INIT_ARGS", "").split()
    chosen = {word.lstrip("-").partition("=")[0] for word in words}
    return {name: True for name in ON_TPU if name not in chosen} or None
