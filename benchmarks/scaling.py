"""`python -m benchmarks scaling`: what planning says, held to what compilers count.

    slices   every preset on a TPU slice, compiled by the TPU's compiler (needs libtpu, no TPU)
    memory   `estimate_model_memory` against XLA's CPU compiler, presets x strategies, 8 devices
    weak     the tiny preset, its batch a device, on 8, 64 and 512 devices

Nothing runs: steps are compiled and read. Each case is a process of its own.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from benchmarks.child import Answer
from benchmarks.runner import Case, Plan, run_case, tell
from rtdlm.evaluation.results import Result

DESCRIPTION = "plans held to compilers: memory, presets on TPU slices, weak scaling (no device)"
REPEATS = 1
PARTS = ("slices", "memory", "weak")
SIDE = "benchmarks.sides.our_plan"

FSDP = {"mesh": {"strategy": "fsdp"}}
SLICES: dict[str, tuple[str, dict[str, Any]]] = {
    "tiny": ("v5e:2x4", {}),
    "small": ("v5e:4x4", {}),
    "base": ("v5e:4x4", {}),
    "large": ("v5e:8x8", FSDP),
    "xlarge": ("v5p:4x4x4", FSDP),
    "xxlarge": ("v5p:8x8x8", FSDP),
}
"""Preset -> a slice that its batch splits over, and fields."""
STRATEGIES: dict[str, tuple[str, dict[str, Any]]] = {
    "one device": ("cpu:1", {}),
    "data": ("cpu:8", {"strategy": "data"}),
    "zero1": ("cpu:8", {"strategy": "zero1"}),
    "zero2": ("cpu:8", {"strategy": "zero2"}),
    "fsdp": ("cpu:8", {"strategy": "fsdp"}),
    "data 4 x tensor 2": ("cpu:8", {"strategy": "combined", "tensor": 2}),
    "fsdp 4 x tensor 2": ("cpu:8", {"fsdp": 4, "tensor": 2}),
    "tensor": ("cpu:8", {"strategy": "tensor"}),
}
WEAK = (8, 64, 512)
WEAK_ROWS = 8
"""Rows of a device: the batch of `tiny`."""
WEAK_RUNS = (
    ("data", "adamw", WEAK_ROWS),
    ("fsdp", "adamw", WEAK_ROWS),
    ("fsdp", "muon", WEAK_ROWS),
    # As little as there can be, so that the optimizer is half of a step.
    ("fsdp", "muon", 1),
)
TPU_WEAK = {8: "v5p:2x2x2", 64: "v5p:4x4x4", 512: "v5p:8x8x8"}
NEAR, CONSTANT = 10.0, 5.0
SMOKE: dict[str, Any] = {
    "d_model": 16, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "d_ff": 16,
    "vocab_size": 64, "max_seq_len": 16,
}  # fmt: skip


def add_flags(parser: ArgumentParser) -> None:
    """Adds `--parts` and `--presets`."""
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--presets", nargs="+", choices=tuple(SLICES), default=list(SLICES))


def measure(plan: Plan, flags: Namespace) -> list[Result]:
    """The results of the parts that were asked for."""
    parts = {"slices": _slices, "memory": _memory, "weak": _weak}
    found: list[Result] = []
    for name in flags.parts:
        found += parts[name](plan, ["tiny"] if plan.smoke else flags.presets)
    return found


def _slices(plan: Plan, presets: list[str]) -> Iterator[Result]:
    if plan.smoke or not _has_libtpu():
        return
    for preset in presets:
        devices, fields = SLICES[preset]
        found = _ask(preset, devices, fields, "plan")
        case, memory = f"slice, {preset} on {devices}", found["memory"]
        yield Result(f"{case}/parameters", memory["parameters"] / 1e9, "GB")
        yield Result(f"{case}/optimizer", memory["optimizer"] / 1e9, "GB")
        yield Result(f"{case}/the rest", _rest(memory) / 1e9, "GB")
        yield Result(f"{case}/all", memory["total"] / 1e9, "GB")
        margin = 100 * (1 - memory["total"] / found["limit"])
        yield Result(f"{case}/free", margin, "%", (">=", 0.0))
        off = 100 * (found["estimate"] / memory["total"] - 1)
        yield Result(f"{case}/estimate off by", off, "%")
        yield Result(f"{case}/sent", sum(row["sent"] for row in found["collectives"]) / 1e6, "MB")
        if (roof := found["roofline"]) is not None:
            yield Result(f"{case}/step, at least", 1e3 * roof["overlapped"], "ms")
            yield Result(f"{case}/nothing overlapped", 1e3 * roof["serial"], "ms")
            yield Result(f"{case}/MFU, at most", 100 * roof["mfu"][1], "%")


def _memory(plan: Plan, presets: list[str]) -> Iterator[Result]:
    for preset in presets:
        for strategy, (devices, mesh) in STRATEGIES.items():
            if plan.smoke and strategy != "fsdp":
                continue
            fields = {"mesh": mesh, **(SMOKE if plan.smoke else {})}
            found = _ask(preset, devices, fields, "step", for_memory=True)
            case = f"memory, {preset}, {strategy}"
            off = 100 * (found["estimate"] / found["compiler"] - 1)
            yield Result(f"{case}/state", found["state"] / 1e9, "GB")
            yield Result(f"{case}/estimate", found["estimate"] / 1e9, "GB")
            yield Result(f"{case}/compiler", found["compiler"] / 1e9, "GB")
            yield Result(f"{case}/off by", off, "%")
            yield Result(f"{case}/off by, without sign", abs(off), "%", ("<=", NEAR))


def _weak(plan: Plan, presets: list[str]) -> Iterator[Result]:
    del presets
    counts = WEAK[:1] if plan.smoke else WEAK
    compilers = [{count: f"cpu:{count}" for count in counts}]
    if not plan.smoke and _has_libtpu():
        compilers.append({count: TPU_WEAK[count] for count in counts})
    for places in compilers:
        for strategy, optimizer, rows in WEAK_RUNS[:1] if plan.smoke else WEAK_RUNS:
            if optimizer == "muon" and not places[counts[0]].startswith("cpu"):
                continue
            first: Answer | None = None
            for count in counts:
                fields = {
                    "mesh": {"strategy": strategy}, "batch_size": count * rows,
                    "optimizer": {"name": optimizer},
                    "layer_unroll": 1,
                    **(SMOKE if plan.smoke else {"d_model": 512, "d_ff": 1536}),
                }  # fmt: skip
                found = _ask("tiny", places[count], fields, "step")
                first = first or found
                few = "" if rows == WEAK_ROWS else ", one row a device"
                case = f"weak, {strategy}, {optimizer}, {places[count]}{few}"
                yield from _weak_rows(case, found, first, count)


def _weak_rows(case: str, found: Answer, first: Answer, count: int) -> Iterator[Result]:
    if found["flops"]:  # which a TPU's program has in another form
        yield Result(f"{case}/arithmetic", found["flops"] / 1e9, "GFLOP")
        change = 100 * abs(found["flops"] / first["flops"] - 1)
        yield Result(f"{case}/arithmetic, change", change, "%", ("<=", CONSTANT))
    ways = count if "fsdp" in case else 1
    weights = found["parameters"] * ways
    yield Result(f"{case}/weights", found["parameters"] / 1e6, "MB")
    expected = first["parameters"] * (WEAK[0] if "fsdp" in case else 1)
    change = 100 * abs(weights / expected - 1)
    yield Result(f"{case}/weights x devices that split them, change", change, "%", ("<=", CONSTANT))
    yield Result(f"{case}/sent", found["sent"] / 1e6, "MB")
    yield Result(f"{case}/by formula", found["expected"] / 1e6, "MB")
    times = found["sent"] / found["expected"]
    yield Result(f"{case}/sent over formula", times, "x", ("<=", 1 + CONSTANT / 100))


def _ask(preset: str, devices: str, fields: dict[str, Any], ask: str, **more: Any) -> Answer:
    tell(f"{preset} on {devices}: {fields}")
    spec = {"preset": preset, "devices": devices, "fields": fields, "ask": ask, **more}
    return run_case(Case(SIDE, spec))


def _rest(memory: dict[str, float]) -> float:
    return memory["total"] - memory["parameters"] - memory["optimizer"]


def _has_libtpu() -> bool:
    found = find_spec("libtpu") is not None
    if not found:
        tell("no libtpu: TPU slices are left out; install it with `pip install 'rtdlm[tpu]'`")
    return found
