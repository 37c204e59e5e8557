"""The training step of a run, compiled for a mesh, without making a single array."""

from typing import Any, cast

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from rtdlm.config import AGIConfig
from rtdlm.data import Batch
from rtdlm.models import TMSModel
from rtdlm.parallel import check_batch
from rtdlm.training.knobs import Knobs
from rtdlm.training.optimizer import check_rules, make_optimizer
from rtdlm.training.state import state_shapes
from rtdlm.training.step import make_train_step

# Accelerators' compilers order a program for memory; the CPU's does so when told.
FOR_MEMORY = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}


def compile_step(config: AGIConfig, mesh: Mesh, *, for_memory: bool = False) -> Any:
    """The step of `config` for `mesh`, compiled; `jax.stages.Compiled`.

    Args:
        config: the run; its `precision.compute` must not be `auto` unless the devices are here.
        mesh: of devices that are here, fake, or described (`rtdlm.parallel.slices`).
        for_memory: order a CPU program as accelerators' compilers would, with little memory.

    Raises:
        UserError: rows do not split over the mesh, or an optimizer rule matches nothing.
    """
    model = TMSModel(config)
    check_batch(mesh, rows=config.least_rows)
    check_rules(config.optimizer, model.shapes)
    optimizer = make_optimizer(config.optimizer)
    step = make_train_step(model, optimizer, mesh)
    fraction = jax.ShapeDtypeStruct((), jnp.float32)
    given = (state_shapes(model, optimizer), batch_shapes(config), knob_shapes(config), fraction)
    with jax.set_mesh(mesh):
        return step.__wrapped__.lower(*given).compile(
            compiler_options=FOR_MEMORY if for_memory else None
        )


def batch_shapes(config: AGIConfig) -> Batch:
    """A step's batch, in shapes."""
    shape = (config.batch_size, config.max_seq_len)
    integers, floats = (jax.ShapeDtypeStruct(shape, kind) for kind in (jnp.int32, jnp.float32))
    return cast(Any, Batch)(integers, integers, integers, integers, floats)


def knob_shapes(config: AGIConfig) -> Knobs:
    """The knobs, in shapes."""
    return jax.eval_shape(lambda: Knobs.from_config(config))
