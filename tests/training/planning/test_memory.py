"""Estimates against the compiler: state exactly, the whole within a tenth (docs/scaling.md)."""

from typing import Any

import jax
import pytest
from jax.sharding import AbstractDevice

from rtdlm.config import AGIConfig
from rtdlm.models import TMSModel
from rtdlm.parallel import mesh_of
from rtdlm.training.planning import compile_step, estimate_model_memory

SMALL: dict[str, Any] = {
    "vocab_size": 256, "max_seq_len": 64, "d_model": 64, "num_heads": 4, "num_kv_heads": 2,
    "num_layers": 8, "d_ff": 256, "batch_size": 16, "precision": {"compute": "float32"},
}  # fmt: skip
KNOBS_AND_KEYS = 200
"""Bytes of arguments that are neither state nor batch, and of a key as it is counted."""


@pytest.mark.parametrize(
    "mesh",
    [
        {"strategy": "pmap"},
        {"strategy": "data"},
        {"strategy": "zero1"},
        {"strategy": "zero2"},
        {"strategy": "fsdp"},
        {"strategy": "tensor"},
        {"strategy": "combined", "tensor": 2},
    ],
    ids=lambda mesh: mesh["strategy"],
)
def test_state_is_exact_and_the_rest_is_near(mesh: dict[str, Any]) -> None:
    config = AGIConfig.from_dict({**SMALL, "mesh": mesh})
    axes = mesh_of(config)
    estimate = estimate_model_memory(config, axes)
    found = compile_step(config, axes, for_memory=True).memory_analysis()
    assert abs(found.argument_size_in_bytes - estimate.state) <= KNOBS_AND_KEYS
    counted = found.argument_size_in_bytes + found.temp_size_in_bytes
    assert estimate.total == pytest.approx(counted, rel=0.1)


def test_what_recomputes_needs_less_and_micro_batches_too() -> None:
    def working(**fields: Any) -> float:
        config = AGIConfig.from_dict({**SMALL, **fields})
        return estimate_model_memory(config, mesh_of(config)).working

    full, dots, none = (working(remat=remat) for remat in ("full", "dots", "none"))
    assert full < dots < none
    assert working(batch_size=64, accumulate_steps=4) < working(batch_size=64)


def test_shares_of_parameters_and_moments() -> None:
    def of(strategy: str) -> tuple[float, float, float]:
        config = AGIConfig.from_dict({**SMALL, "mesh": {"strategy": strategy}})
        found = estimate_model_memory(config, mesh_of(config))
        return found.parameters, found.gradients, found.optimizer

    whole = of("data")
    assert (
        whole[0]
        == whole[1]
        == sum(
            leaf.size * 4 for leaf in jax.tree.leaves(TMSModel(AGIConfig.from_dict(SMALL)).shapes)
        )
    )
    split = of("fsdp")
    assert all(part < total / 4 for part, total in zip(split, whole, strict=True))
    assert of("zero1") == (whole[0], whole[1], split[2])
    assert of("zero2") == (whole[0], split[1], split[2])


def test_on_a_tpu_attention_keeps_no_scores() -> None:
    fields = {**SMALL, "max_seq_len": 1024, "batch_size": 2, "precision": {"compute": "bfloat16"}}
    config = AGIConfig.from_dict(fields)

    def found(platform: str) -> Any:
        device = AbstractDevice(platform, 1, platform)
        mesh = mesh_of(config, jax.devices()[:1]).abstract_mesh.update(abstract_device=device)
        return estimate_model_memory(config, mesh)

    scores = 8 * 2 * 4 * 1024 * 1024 * 2 * (9 / 16)  # of eight layers, the causal part in blocks
    assert found("cpu").working - found("tpu").working > 0.8 * scores
