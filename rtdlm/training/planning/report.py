"""A plan in words and numbers, for a terminal; and as JSON."""

from dataclasses import asdict
from typing import Any

from rtdlm.models import TMSModel
from rtdlm.training.planning.advice import verdict
from rtdlm.training.planning.plan import Plan
from rtdlm.training.planning.remembered import remembered


def render(plan: Plan) -> str:
    """The plan as text; its last line is the verdict."""
    config, memory = plan.config, plan.memory
    axes = " x ".join(f"{name} {size}" for name, size in plan.axes.items()) or "one device"
    rows = config.batch_size
    lines = [
        f"{plan.devices}, {plan.devices.count} devices as {axes}; {rows:,} rows of "
        f"{config.max_seq_len:,} tokens a step, {config.precision.compute}, remat={config.remat}",
        "",
        f"memory of one device, by {plan.source} ({plan.seconds:.0f} s):",
    ]
    for name, size in asdict(memory).items():
        if size or name != "carried":
            lines.append(f"  {name:12} {size / 1e6:14,.1f} MB")
    error = plan.estimate.total / memory.total - 1
    lines += [
        f"  {'all':12} {memory.total / 1e6:14,.1f} MB   of {plan.limit / 1e6:,.1f} MB",
        f"  estimated without compiling: {plan.estimate.total / 1e6:,.1f} MB "
        f"({100 * error:+.1f} %)",
    ]
    if config.memory.has_tiers:
        lines.append(f"  remembered across segments: {remembered(TMSModel(config))}")
    if plan.arrays:
        lines += ["", "largest arrays:"]
        lines += [
            f"  {array.bytes / 1e6:10,.1f} MB  {array.count:3} x {array.shape:34} {array.made_by}"
            for array in plan.arrays
        ]
    if plan.collectives:
        lines += ["", "sent by one device in a step:"]
        lines += [
            f"  {row.kind:20} {'+'.join(row.axes) or 'other':14} {row.group:4} devices "
            f"{row.count:6,} x  {row.sent / 1e6:12,.2f} MB"
            for row in plan.collectives
        ]
    again = f" and {plan.recomputed / 1e9:,.1f} recomputed" if plan.recomputed else ""
    lines += ["", f"arithmetic of one device in a step: {plan.flops / 1e9:,.1f} GFLOP{again}"]
    lines += _roofline(plan)
    return "\n".join([*lines, "", verdict(plan)])


def to_dict(plan: Plan) -> dict[str, Any]:
    """The plan as JSON takes it."""
    roof = plan.roofline
    return {
        "devices": str(plan.devices),
        "count": plan.devices.count,
        "axes": plan.axes,
        "memory": asdict(plan.memory) | {"total": plan.memory.total},
        "memory_source": plan.source,
        "limit": plan.limit,
        "estimate": plan.estimate.total,
        "fits": plan.fits,
        "verdict": verdict(plan),
        "arrays": [asdict(array) for array in plan.arrays],
        "collectives": [asdict(row) for row in plan.collectives],
        "flops": plan.flops,
        "recomputed_flops": plan.recomputed,
        "roofline": None
        if roof is None
        else asdict(roof)
        | {"overlapped": roof.overlapped, "serial": roof.serial, "mfu": list(roof.mfu)},
        "config": plan.config.to_dict(),
    }


def _roofline(plan: Plan) -> list[str]:
    roof = plan.roofline
    if roof is None:
        why = "it does not fit" if not plan.fits else "a processor has no data sheet here"
        return [f"no roofline: {why}"]
    low, high = roof.mfu
    return [
        f"roofline: arithmetic {_milliseconds(roof.compute)}, memory {_milliseconds(roof.memory)}, "
        f"communication {_milliseconds(roof.communication)}; bound by {roof.bound}",
        f"step: at least {_milliseconds(roof.overlapped)} (all overlapped), "
        f"{_milliseconds(roof.serial)} if nothing is; MFU at most {100 * high:.0f} %, "
        f"{100 * low:.0f} % without overlap",
    ]


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:,.3g} ms"
