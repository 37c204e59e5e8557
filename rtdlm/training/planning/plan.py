"""A plan: whether a run fits on given devices, what it will cost there and what to change if not.

The step is compiled for the devices, which need not be there: memory, collectives and the largest
arrays are the compiler's. Floating-point operations are `rtdlm.models.cost`'s, since XLA counts the
body of a loop once.
"""

import re
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import jax

from rtdlm.config import AGIConfig
from rtdlm.parallel import mesh_of
from rtdlm.parallel.buffers import LargeArray, largest_arrays
from rtdlm.parallel.collectives import Collective, read_collectives
from rtdlm.parallel.hlo import parse_program
from rtdlm.parallel.roofline import Roofline, roofline
from rtdlm.parallel.slices import Slice, slice_devices
from rtdlm.training.planning.cost import (
    memory_limit,
    memory_traffic,
    recomputed_share,
    resolved,
    step_flops,
)
from rtdlm.training.planning.memory import ModelMemory, estimate_model_memory
from rtdlm.training.planning.program import compile_step
from rtdlm.training.planning.recommend import decide_mesh

ARRAYS_SHOWN = 8


@dataclass(frozen=True)
class DeviceMemory:
    """Of one device during a step [bytes]."""

    parameters: float
    optimizer: float
    batch: float
    carried: float
    """What rows remember from step to step (`memory.across_steps`)."""
    activations: float
    """What the gradient needs, by the trace; at most what the compiler has beside arguments."""
    temporary: float
    """The rest of the compiler's work space."""
    program: float
    """The program itself, where it lies on the device."""

    @property
    def total(self) -> float:
        """All of it."""
        return (
            self.parameters + self.optimizer + self.batch + self.carried
            + self.activations + self.temporary + self.program
        )  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """What is known of a run before it starts."""

    config: AGIConfig
    devices: Slice
    axes: dict[str, int]
    """Devices along each mesh axis."""
    memory: DeviceMemory
    limit: float
    """Of one device [bytes]."""
    fits: bool
    source: str
    """Whose count `memory` is."""
    estimate: ModelMemory
    arrays: tuple[LargeArray, ...]
    collectives: tuple[Collective, ...]
    flops: float
    """One device's share of the model's own arithmetic in a step [FLOP]."""
    recomputed: float
    """And of what `remat` does again [FLOP]."""
    roofline: Roofline | None
    seconds: float
    """That compiling took."""

    @property
    def margin(self) -> float:
        """Memory that is left on each device; negative where it does not fit [bytes]."""
        return self.limit - self.memory.total


def make_plan(config: AGIConfig, devices: Slice) -> Plan:
    """Compiles the step of `config` for `devices` and says what it found.

    Raises:
        UserError: the mesh, the batch or the devices do not go together.
    """
    config, _ = decide_mesh(resolved(config, devices), devices)
    mesh = mesh_of(config, slice_devices(devices))
    estimate = estimate_model_memory(config, mesh)
    limit = memory_limit(devices)
    start = perf_counter()
    try:
        compiled = compile_step(config, mesh, for_memory=devices.accelerator.platform == "gpu")
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        memory = _exceeded(str(error), estimate, limit)
        arrays: list[LargeArray] = []
        collectives: list[Collective] = []
        source = f"{devices.compiled_by}, which gave up"
        fits = False
    else:
        memory = _counted(compiled, estimate)
        program = parse_program(compiled.as_text())
        arrays = largest_arrays(program, count=ARRAYS_SHOWN)
        collectives = read_collectives(program, mesh)
        source = devices.compiled_by
        fits = memory.total <= limit
    axes = dict(mesh.shape)
    flops = step_flops(config) / mesh.size
    again = flops * recomputed_share(config)
    return Plan(
        config=config,
        devices=devices,
        axes={name: size for name, size in axes.items() if size > 1},
        memory=memory,
        limit=limit,
        fits=fits,
        source=source,
        estimate=estimate,
        arrays=tuple(arrays),
        collectives=tuple(collectives),
        flops=flops,
        recomputed=again,
        roofline=roofline(
            devices.accelerator,
            compute=config.precision.compute,
            flops=flops + again,
            useful_flops=flops,
            memory_bytes=memory_traffic(config, estimate, axes=axes),
            collectives=collectives,
            axis_sizes=axes,
        )
        if fits
        else None,
        seconds=perf_counter() - start,
    )


def _counted(compiled: Any, estimate: ModelMemory) -> DeviceMemory:
    found = compiled.memory_analysis()
    arguments = float(found.argument_size_in_bytes)
    # Donated arguments become results; what is left of the results is extra.
    work = float(found.temp_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes)
    activations = min(estimate.activations, work)
    return DeviceMemory(
        parameters=estimate.parameters,
        optimizer=estimate.optimizer,
        batch=max(0.0, arguments - estimate.state + estimate.batch),
        carried=estimate.carried,
        activations=activations,
        temporary=work - activations,
        program=float(found.generated_code_size_in_bytes),
    )


def _exceeded(message: str, estimate: ModelMemory, limit: float) -> DeviceMemory:
    """By what a TPU's compiler said when the program did not fit, and else by the estimate."""
    used = re.search(r"Used ([\d.]+)([KMGT]) of", message)
    temporaries = re.search(r"HLO temporaries \(([\d.]+)([KMGT])\)", message)
    scale = {"K": 2.0**10, "M": 2.0**20, "G": 2.0**30, "T": 2.0**40}
    work = estimate.working
    if used is not None:
        work = float(used[1]) * scale[used[2]] - estimate.state
    elif temporaries is not None:
        work = float(temporaries[1]) * scale[temporaries[2]]
    work = max(work, limit - estimate.state, 0.0)
    activations = min(estimate.activations, work)
    return DeviceMemory(
        estimate.parameters,
        estimate.optimizer,
        estimate.batch,
        estimate.carried,
        activations,
        work - activations,
        0.0,
    )
