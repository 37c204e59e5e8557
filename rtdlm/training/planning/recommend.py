"""Which arrangement of devices a run should take: all are estimated, the fastest that fits wins.

Nothing is compiled. Memory is `estimate_model_memory`'s, time the roofline's with nothing
overlapped, communication by the formulas of `expected_collectives`. Where no data sheet tells what
a device does, as of processors, typical numbers rank the candidates and no time is told.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from rtdlm.config import AGIConfig, UserError
from rtdlm.config.mesh import AXES, MOST_TENSOR, MeshConfig, resolve_mesh
from rtdlm.parallel import check_batch
from rtdlm.parallel.accelerators import Accelerator
from rtdlm.parallel.roofline import Roofline, roofline
from rtdlm.parallel.slices import Slice
from rtdlm.training.planning.communication import expected_collectives
from rtdlm.training.planning.cost import (
    GIB,
    memory_limit,
    memory_traffic,
    recomputed_share,
    resolved,
    step_flops,
)
from rtdlm.training.planning.memory import estimate_model_memory

CAUTION = 1.1
"""What fits must fit with a tenth more: few estimates are further below the CPU compiler's count. A
TPU compiler's was up to nearly twice the estimate (docs/scaling.md)."""
# Of a processor, one of several that share a machine; only their ratios count.
TYPICAL = {"flops": 1e11, "memory_bandwidth": 2e10, "link": 5e9}


@dataclass(frozen=True)
class Candidate:
    """One arrangement, estimated."""

    mesh: MeshConfig
    """With a number for every axis."""
    memory: float
    """Of one device at the worst moment [bytes]."""
    fits: bool
    roofline: Roofline
    sent: float
    """By one device in a step [bytes]."""

    @property
    def seconds(self) -> float:
        """Of one step, nothing overlapped [seconds]."""
        return self.roofline.serial

    def __str__(self) -> str:
        sizes = [f"{axis}={getattr(self.mesh, axis)}" for axis in AXES]
        shown = [size for size in sizes if not size.endswith("=1")]
        return " ".join([self.mesh.strategy or "axes", *shown])


@dataclass(frozen=True)
class Recommendation:
    """The choice, what it was chosen from, and why."""

    choice: Candidate
    candidates: tuple[Candidate, ...]
    """All, those that fit first and the fastest of them first."""
    reasons: tuple[str, ...]
    """Sentences for a person."""

    @property
    def mesh(self) -> MeshConfig:
        """What to set `mesh` to."""
        return self.choice.mesh


def recommend_parallelism(config: AGIConfig, devices: Slice) -> Recommendation:
    """The fastest arrangement of `devices` on which a step of `config` fits.

    Its own mesh and strategy do not count. Takes seconds: each kind of share is traced once.

    Raises:
        UserError: no arrangement takes the batch, or the step fits under none.
    """
    config = resolved(config, devices)
    limit = memory_limit(devices)
    found = [
        _estimated(chosen, mesh, devices, limit) for chosen, mesh in _arrangements(config, devices)
    ]
    if not found:
        raise UserError(
            f"batch_size={config.batch_size} with accumulate_steps={config.accumulate_steps} does "
            f"not split over {devices.count} devices in any way that was tried; use a multiple of "
            f"{devices.count}"
        )
    # Of equals the first, which splits less.
    ranked = sorted(
        found, key=lambda each: (not each.fits, each.seconds if each.fits else each.memory)
    )
    best = ranked[0]
    if not best.fits:
        raise UserError(
            f"no arrangement of {devices} fits: the least, {best}, needs "
            f"{CAUTION * best.memory / GIB:,.1f} GiB (a tenth for caution) of {limit / GIB:,.1f} "
            "GiB a device; use remat=full, more accumulate_steps, more devices or a smaller model"
        )
    return Recommendation(best, tuple(ranked), _reasons(ranked, devices, limit))


def decide_mesh(config: AGIConfig, devices: Slice) -> tuple[AGIConfig, tuple[str, ...]]:
    """`config` with `mesh.strategy=auto` decided for `devices`, and why; any other as it is.

    Raises:
        UserError: as `recommend_parallelism`.
    """
    if config.mesh_strategy != "auto":
        return config, ()
    found = recommend_parallelism(config, devices)
    return config.replace(mesh=asdict(found.mesh)), found.reasons


def recommendation_table(found: Recommendation) -> str:
    """All candidates, for a terminal."""
    lines = [f"{'arrangement':34} {'memory [GiB]':>12} {'sent [MB]':>12} {'step [ms]':>10}"]
    for each in found.candidates:
        time = f"{1e3 * each.seconds:,.1f}" if each.fits else "too big"
        lines.append(f"{each!s:34} {each.memory / GIB:12,.2f} {each.sent / 1e6:12,.1f} {time:>10}")
    return "\n".join([*lines, "", *found.reasons])


def _arrangements(config: AGIConfig, devices: Slice) -> Iterator[tuple[AGIConfig, AbstractMesh]]:
    seen: set[tuple[Any, ...]] = set()
    device = AbstractDevice(devices.accelerator.name, None, devices.accelerator.platform)
    types = (AxisType.Auto,) * len(AXES)
    for mesh in _meshes(config, devices.count):
        try:
            chosen = config.replace(mesh=mesh, distributed_training=False, tensor_parallel=False)
            sizes = resolve_mesh(chosen, devices.count)
            axes = tuple(getattr(sizes, axis) for axis in AXES)
            abstract = AbstractMesh(axes, AXES, axis_types=types, abstract_device=device)
            check_batch(abstract, rows=config.batch_size // config.accumulate_steps)
        except UserError:
            continue
        if abstract.size == devices.count and (sizes.strategy, axes) not in seen:
            seen.add((sizes.strategy, axes))
            yield chosen.replace(mesh={axis: getattr(sizes, axis) for axis in AXES}), abstract


def _meshes(config: AGIConfig, count: int) -> Iterator[dict[str, Any]]:
    """Arrangements to try, those that split less first."""
    none: dict[str, Any] = {"strategy": None, "data": -1, "fsdp": 1, "expert": 1, "context": 1}
    none["tensor"] = 1
    for strategy in ("data", "zero1", "zero2", "fsdp"):
        yield {**none, "strategy": strategy}
    for split in (4, 8, 16, 32, 64):
        if split < count and count % split == 0:
            yield {**none, "fsdp": split}
    for ways in range(2, MOST_TENSOR + 1):
        if config.num_heads % ways == 0 and count % ways == 0:
            yield {**none, "strategy": "combined", "tensor": ways}
            if count > ways:
                yield {**none, "strategy": "fsdp", "tensor": ways}
    experts = config.experts.num_experts
    for ways in (2, 4, 8, 16):
        if experts and experts % ways == 0 and count % ways == 0:
            yield {**none, "expert": ways}
            if count > ways:
                yield {**none, "strategy": "fsdp", "expert": ways}


def _estimated(config: AGIConfig, mesh: AbstractMesh, devices: Slice, limit: float) -> Candidate:
    estimate = estimate_model_memory(config, mesh)
    axes = dict(mesh.shape)
    collectives = expected_collectives(config, axes)
    flops = step_flops(config) / devices.count
    roof = roofline(
        _with_numbers(devices.accelerator),
        compute=config.precision.compute,
        flops=flops * (1 + recomputed_share(config)),
        useful_flops=flops,
        memory_bytes=memory_traffic(config, estimate, axes=axes),
        collectives=collectives,
        axis_sizes=axes,
    )
    assert roof is not None
    sent = sum(row.sent for row in collectives)
    return Candidate(config.mesh, estimate.total, CAUTION * estimate.total <= limit, roof, sent)


def _with_numbers(accelerator: Accelerator) -> Accelerator:
    if accelerator.memory_bandwidth is not None:
        return accelerator
    flops = dict.fromkeys(("bfloat16", "float16", "float32"), TYPICAL["flops"])
    return replace(
        accelerator,
        flops=flops,
        memory_bandwidth=TYPICAL["memory_bandwidth"],
        link=TYPICAL["link"],
        torus=1,
    )


def _reasons(ranked: list[Candidate], devices: Slice, limit: float) -> tuple[str, ...]:
    best, fitting = ranked[0], [each for each in ranked if each.fits]
    known = devices.accelerator.memory_bandwidth is not None
    time = f", about {1e3 * best.seconds:,.1f} ms a step" if known else ""
    told = [
        f"{best}: the fastest of the {len(fitting)} arrangements that fit{time}, bound by "
        f"{best.roofline.bound}, with {best.memory / GIB:,.1f} of {limit / GIB:,.1f} GiB a device."
    ]
    if len(fitting) > 1:
        second = fitting[1]
        slower = 100 * (second.seconds / best.seconds - 1)
        told.append(
            f"Next is {second}, {slower:.0f} % slower: {_difference(best, second)}."
            if slower >= 0.5
            else f"As fast is {second}."
        )
    if too_big := [each for each in ranked if not each.fits]:
        worst = max(too_big, key=lambda each: each.memory)
        told.append(
            f"{len(too_big)} do not fit with a tenth for caution; the most is {worst}, which needs "
            f"{worst.memory / GIB:,.1f} GiB."
        )
    return tuple(told)


def _difference(best: Candidate, second: Candidate) -> str:
    """What the second takes longer for."""
    times = {
        "sending": second.roofline.communication - best.roofline.communication,
        "reading and writing memory": second.roofline.memory - best.roofline.memory,
    }
    name = max(times, key=lambda name: times[name])
    if name == "sending":
        return f"it sends {second.sent / 1e6:,.0f} MB a step and device, not {best.sent / 1e6:,.0f}"
    return "its devices read and write more of their memory in the optimizer"
