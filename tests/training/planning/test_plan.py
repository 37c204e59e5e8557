import importlib.util
import json
from dataclasses import replace
from typing import Any

import pytest

from rtdlm.config import AGIConfig
from rtdlm.parallel import mesh_of
from rtdlm.parallel.slices import Slice, parse_slice, slice_devices
from rtdlm.training.planning import estimate_model_memory, make_plan, render, to_dict, verdict
from rtdlm.training.planning.advice import helpful_changes
from rtdlm.training.planning.communication import expected_collectives
from rtdlm.training.planning.plan import Plan, _exceeded

FIELDS: dict[str, Any] = {
    "vocab_size": 256, "max_seq_len": 64, "d_model": 64, "num_heads": 4, "num_kv_heads": 2,
    "num_layers": 2, "d_ff": 256, "batch_size": 32, "layer_unroll": 1,
}  # fmt: skip
CONFIG = AGIConfig.from_dict(FIELDS)
AXES = dict.fromkeys(("data", "fsdp", "expert", "context", "tensor"), 1)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan(CONFIG, parse_slice("h100:8"))


def test_a_plan_adds_up(plan: Plan) -> None:
    memory = plan.memory
    assert memory.total == pytest.approx(
        memory.parameters + memory.optimizer + memory.batch + memory.activations
        + memory.temporary + memory.program
    )  # fmt: skip
    assert plan.axes == {"data": 8}
    assert plan.fits and plan.margin == plan.limit - memory.total > 0
    assert {row.kind for row in plan.collectives} == {"all-reduce"}
    assert plan.roofline is not None
    assert plan.config.precision.compute == "bfloat16"


def test_it_is_told_and_written(plan: Plan) -> None:
    text = render(plan)
    assert text.startswith("h100:8, 8 devices as data 8; 32 rows of 64 tokens a step")
    assert "on 8 fake devices in place of GPUs" in text
    assert text.splitlines()[-1] == verdict(plan)
    assert verdict(plan).startswith("fits in 74.5 GiB: needs ")
    tree = json.loads(json.dumps(to_dict(plan)))
    assert tree["memory"]["total"] == plan.memory.total
    assert AGIConfig.from_dict(tree["config"]) == plan.config


def test_what_rows_carry_has_a_line_where_there_is_any(plan: Plan) -> None:
    assert "carried" not in render(plan)
    memory = replace(plan.memory, carried=2e6)
    assert memory.total == plan.memory.total + 2e6
    lines = render(replace(plan, memory=memory)).splitlines()
    assert ["carried", "2.0", "MB"] in [line.split() for line in lines]


def test_memory_across_segments_has_a_line_of_its_own(plan: Plan) -> None:
    """A window of 32 in two layers of 64 features; other parts are those of the plan given."""
    assert "remembered" not in render(plan)
    config = plan.config.replace(memory={"segment": 32, "stm_window": 32, "short_conv": 0})
    size = config.num_layers * (2 * 32 * config.d_model * 2 + 4 * 32)
    line = f"  remembered across segments: {size / 1e3:.1f} kB a row, in segments of 32 tokens: stm"
    assert line in render(replace(plan, config=config)).splitlines()


def with_limit(plan: Plan, limit: float) -> Plan:
    accelerator = replace(plan.devices.accelerator, memory=limit)
    devices = Slice(accelerator, plan.devices.shape)
    return replace(plan, limit=limit, devices=devices, fits=plan.memory.total <= limit)


def test_advice_is_what_makes_it_fit(plan: Plan) -> None:
    tight = with_limit(plan, 0.7 * plan.memory.total)
    changes = helpful_changes(tight)
    assert changes
    off = max(1.0, plan.memory.total / plan.estimate.total)
    for change in changes:
        tree: dict[str, Any] = {}
        for name, value in change.items():
            section, _, field = name.rpartition(".")
            (tree.setdefault(section, {}) if section else tree)[field] = value
        changed = plan.config.replace(**tree)
        mesh = mesh_of(changed, slice_devices(plan.devices))
        assert estimate_model_memory(changed, mesh).total * off <= tight.limit
    sentence = verdict(tight)
    assert sentence.startswith("does not fit in ")
    assert all(f"{name}=" in sentence for name in ("remat", "mesh.strategy") if name in changes[0])


def test_where_nothing_helps_nothing_is_advised(plan: Plan) -> None:
    hopeless = with_limit(plan, 1e4)
    assert helpful_changes(hopeless) == []
    assert "take more devices or a smaller model" in verdict(hopeless)


@pytest.mark.parametrize(
    ("message", "work"),
    [
        ("the total memory required for HLO temporaries (82.50G) exceeds available HBM", 82.5),
        ("Ran out of memory in memory space hbm. Used 112.00G of 95.74G hbm.", 112.0),
        ("something new", 15.75),
    ],
)
def test_what_a_tpus_compiler_says_when_it_gives_up(plan: Plan, message: str, work: float) -> None:
    limit = 15.75 * 2**30
    found = _exceeded(message, plan.estimate, limit)
    state = plan.estimate.state if "temporaries" in message else 0.0
    assert found.total == pytest.approx(work * 2**30 + state)


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="no libtpu: pip install 'rtdlm[tpu]'"
)
def test_a_tpu_slice_without_a_tpu() -> None:
    found = make_plan(CONFIG, parse_slice("v5e:2x4"))
    assert found.source == "XLA's TPU compiler"
    assert found.fits and found.memory.program > 0
    assert {row.axes for row in found.collectives} == {("data",)}


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="no libtpu: pip install 'rtdlm[tpu]'"
)
def test_on_tpus_the_output_table_is_gathered_once_and_not_in_each_chunk_of_the_loss() -> None:
    config = CONFIG.replace(
        batch_size=64, mesh={"strategy": "fsdp"}, optimizer={"name": "adamw"},
        loss={"chunk_size": 8},
    )  # fmt: skip
    found = make_plan(config, parse_slice("v5e:4x4"))
    sent, expected = (
        sum(row.sent for row in rows if row.kind == "all-gather")
        for rows in (found.collectives, expected_collectives(found.config, {**AXES, "fsdp": 16}))
    )
    assert 0.5 * expected < sent < 1.05 * expected
