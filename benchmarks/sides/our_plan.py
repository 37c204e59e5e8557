"""One plan, in a process of its own: JAX makes its fake devices once."""

from typing import Any

from benchmarks.child import Answer
from rtdlm.config import AGIConfig
from rtdlm.parallel import mesh_of
from rtdlm.parallel.collectives import read_collectives
from rtdlm.parallel.flops import product_flops
from rtdlm.parallel.hlo import parse_program
from rtdlm.parallel.slices import parse_slice, slice_devices
from rtdlm.training.planning import compile_step, estimate_model_memory, make_plan, to_dict
from rtdlm.training.planning.communication import expected_collectives
from rtdlm.training.planning.cost import resolved


def measure(spec: dict[str, Any]) -> Answer:
    """`spec`: preset, fields, devices, and what is asked: `plan` or `step`."""
    config = AGIConfig.from_preset(spec["preset"], **spec["fields"])
    devices = parse_slice(spec["devices"])
    if spec["ask"] == "plan":
        return to_dict(make_plan(config, devices))
    return _step(resolved(config, devices), spec)


def _step(config: AGIConfig, spec: dict[str, Any]) -> Answer:
    """The compiler's count and the estimate, without the rest of a plan."""
    devices = parse_slice(spec["devices"])
    mesh = mesh_of(config, slice_devices(devices))
    estimate = estimate_model_memory(config, mesh)
    compiled = compile_step(config, mesh, for_memory=spec.get("for_memory", False))
    found = compiled.memory_analysis()
    program = parse_program(compiled.as_text())
    sent: dict[str, float] = {}
    for row in read_collectives(program, mesh):
        sent[row.kind] = sent.get(row.kind, 0.0) + row.sent
    expected: dict[str, float] = {}
    for row in expected_collectives(config, dict(mesh.shape)):
        expected[row.kind] = expected.get(row.kind, 0.0) + row.sent
    extra = found.output_size_in_bytes - found.alias_size_in_bytes
    return {
        "state": estimate.state,
        "estimate": estimate.total,
        "parameters": estimate.parameters,
        "optimizer": estimate.optimizer,
        "compiler": found.argument_size_in_bytes + found.temp_size_in_bytes + extra,
        "arguments": found.argument_size_in_bytes,
        "flops": product_flops(program),
        "sent": sum(sent.values()),
        "expected": sum(expected.values()),
    }
