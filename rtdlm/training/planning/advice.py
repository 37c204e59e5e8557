"""What to change when a run does not fit: only what makes it fit, by the estimate.

The compiler's count and the estimate differ by some percent; the estimate of every change is
scaled by how far they were apart for the run itself.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from jax.sharding import Mesh

from rtdlm.config import AGIConfig, UserError
from rtdlm.parallel import check_batch, mesh_of
from rtdlm.parallel.slices import slice_devices
from rtdlm.training.planning.cost import GIB
from rtdlm.training.planning.memory import estimate_model_memory
from rtdlm.training.planning.plan import Plan

MOST_ADVICE = 2
Change = dict[str, Any]


def verdict(plan: Plan) -> str:
    """One sentence: whether it fits, with how much to spare, or what to change."""
    limit, needed = _gib(plan.limit), _gib(plan.memory.total)
    if plan.fits:
        share = 100 * plan.margin / plan.limit
        return f"fits in {limit}: needs {needed}, {_gib(plan.margin)} to spare ({share:.0f} %)"
    found = [_written(change) for change in helpful_changes(plan)]
    if not found:
        return (
            f"does not fit in {limit}: needs {needed}; nothing that was tried (remat, FSDP, "
            "micro-batches, and all of them) makes it fit: take more devices or a smaller model"
        )
    return f"does not fit in {limit}: needs {needed}; set {' or '.join(found)}"


def helpful_changes(plan: Plan) -> list[Change]:
    """Up to two changes, the smallest that were found, with each of which the run fits."""
    devices = slice_devices(plan.devices)
    off = plan.memory.total / plan.estimate.total
    found: list[Change] = []
    for changes in (_single(plan.config), _combined(plan.config)):
        for change in changes:
            changed = _changed(plan.config, change)
            mesh = None if changed is None else _mesh(changed, devices)
            if changed is None or mesh is None:
                continue
            estimate = estimate_model_memory(changed, mesh)
            if estimate.total * max(1.0, off) <= plan.limit:
                found.append(change)
            if len(found) == MOST_ADVICE:
                return found
        if found:
            return found
    return found


def _single(config: AGIConfig) -> Iterator[Change]:
    """Changes of one thing, the cheapest in time first."""
    if config.remat == "none":
        yield {"remat": "dots"}
    if config.mesh_strategy not in ("fsdp", "auto"):
        yield {"mesh.strategy": "fsdp", "mesh.data": -1, "mesh.fsdp": 1}
    if config.remat != "full":
        yield {"remat": "full"}
    for count in (2, 4, 8, 16, 32):
        yield {"accumulate_steps": count * config.accumulate_steps}


def _combined(config: AGIConfig) -> Iterator[Change]:
    fsdp: Change = {"mesh.strategy": "fsdp", "mesh.data": -1, "mesh.fsdp": 1}
    for remat in ("dots", "full"):
        for count in (1, 2, 4, 8, 16, 32):
            steps: Change = {"accumulate_steps": count * config.accumulate_steps}
            yield {**fsdp, "remat": remat, **(steps if count > 1 else {})}
    for tensor in (2, 4, 8):
        yield {"mesh.strategy": "fsdp", "mesh.tensor": tensor, "remat": "full"}


def _changed(config: AGIConfig, change: Change) -> AGIConfig | None:
    tree: dict[str, Any] = {}
    for name, value in change.items():
        section, _, field = name.rpartition(".")
        if section:
            tree.setdefault(section, {})[field] = value
        else:
            tree[name] = value
    try:
        return config.replace(**tree)
    except UserError:
        return None


def _mesh(config: AGIConfig, devices: Any) -> Mesh | None:
    try:
        mesh = mesh_of(config, devices)
        check_batch(mesh, rows=config.batch_size // config.accumulate_steps)
    except UserError:
        return None
    return mesh


def _written(change: Mapping[str, Any]) -> str:
    shown = {k: v for k, v in change.items() if (k, v) not in (("mesh.data", -1), ("mesh.fsdp", 1))}
    return " with ".join(f"{name}={value}" for name, value in shown.items())


def _gib(count: float) -> str:
    gib = count / GIB
    return f"{gib:,.1f} GiB" if gib >= 1 else f"{gib * 1024:,.0f} MiB"
