"""The rule table: every parameter of every model has exactly one place."""

from typing import Any

import jax
import pytest
from jax.sharding import PartitionSpec as P

from rtdlm.config import PRESETS, AGIConfig, MeshConfig
from rtdlm.models import TMSModel
from rtdlm.parallel import make_mesh, own_axes, partition_spec, path_name, rules
from tests.models import small as options
from tests.models.small import small_config

MESH = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
BLOCK = "decoder/layers/block"
# Path, shape with the leading axis of layers, and where it lies.
DENSE = {
    "decoder/embedding": ((64, 16), P("tensor", "fsdp")),
    "decoder/output": ((64, 16), P("tensor", "fsdp")),
    "decoder/final_norm/scale": ((16,), P("fsdp")),
    f"{BLOCK}/attention_norm/scale": ((3, 16), P(None, "fsdp")),
    f"{BLOCK}/attention/query/w": ((3, 16, 4, 4), P(None, "fsdp", "tensor", None)),
    f"{BLOCK}/attention/key/w": ((3, 16, 2, 4), P(None, "fsdp", "tensor", None)),
    f"{BLOCK}/attention/value/w": ((3, 16, 2, 4), P(None, "fsdp", "tensor", None)),
    f"{BLOCK}/attention/output/w": ((3, 4, 4, 16), P(None, "tensor", None, "fsdp")),
    f"{BLOCK}/attention/query_norm/scale": ((3, 4), P(None, None)),
    f"{BLOCK}/attention/key_norm/scale": ((3, 4), P(None, None)),
    f"{BLOCK}/feedforward_norm/scale": ((3, 16), P(None, "fsdp")),
    f"{BLOCK}/feedforward/gate/w": ((3, 16, 32), P(None, "fsdp", "tensor")),
    f"{BLOCK}/feedforward/up/w": ((3, 16, 32), P(None, "fsdp", "tensor")),
    f"{BLOCK}/feedforward/down/w": ((3, 32, 16), P(None, "tensor", "fsdp")),
}
EXPERTS = {
    f"{BLOCK}/experts/router/w": ((3, 16, 4), P(None, "fsdp", None)),
    f"{BLOCK}/experts/gate/w": ((3, 4, 16, 32), P(None, "expert", "fsdp", "tensor")),
    f"{BLOCK}/experts/up/w": ((3, 4, 16, 32), P(None, "expert", "fsdp", "tensor")),
    f"{BLOCK}/experts/down/w": ((3, 4, 32, 16), P(None, "expert", "tensor", "fsdp")),
}
RICH = {
    "decoder/position": ((12, 16), P(None, "fsdp")),
    "decoder/value_embedding": ((64, 8), P("tensor", "fsdp")),
    "decoder/ngram/table": ((100, 8), P("tensor", "fsdp")),
    "decoder/ngram/projection/w": ((2, 8, 16), P(None, None, "fsdp")),
    "decoder/embedding_norm/scale": ((16,), P("fsdp")),
    "decoder/input_conv/kernel": ((3, 16), P(None, "fsdp")),
    f"{BLOCK}/residual_mix/weights": ((3, 2), P(None, None)),
    f"{BLOCK}/attention/value_mix/weights": ((3, 3), P(None, None)),
    f"{BLOCK}/attention_conv/kernel": ((3, 3, 16), P(None, None, "fsdp")),
    f"{BLOCK}/feedforward_conv/kernel": ((3, 3, 16), P(None, None, "fsdp")),
    f"{BLOCK}/attention/queries_conv/kernel": ((3, 3, 4, 4), P(None, None, "tensor", None)),
    f"{BLOCK}/attention/keys_conv/kernel": ((3, 3, 2, 4), P(None, None, "tensor", None)),
    f"{BLOCK}/attention/values_conv/kernel": ((3, 3, 2, 4), P(None, None, "tensor", None)),
}
RECIPE = [
    path
    for path in RICH
    if path.endswith(
        ("block/attention_conv/kernel", "block/feedforward_conv/kernel", "value_mix/weights")
    )
]
BIASED = {
    "decoder/final_norm/bias": ((16,), P("fsdp")),
    f"{BLOCK}/attention_norm/bias": ((3, 16), P(None, "fsdp")),
    f"{BLOCK}/attention_output_norm/scale": ((3, 16), P(None, "fsdp")),
    f"{BLOCK}/attention_output_norm/bias": ((3, 16), P(None, "fsdp")),
    f"{BLOCK}/feedforward_norm/bias": ((3, 16), P(None, "fsdp")),
    f"{BLOCK}/feedforward_output_norm/scale": ((3, 16), P(None, "fsdp")),
    f"{BLOCK}/feedforward_output_norm/bias": ((3, 16), P(None, "fsdp")),
    f"{BLOCK}/attention/query/b": ((3, 4, 4), P(None, "tensor", None)),
    f"{BLOCK}/attention/key/b": ((3, 2, 4), P(None, "tensor", None)),
    f"{BLOCK}/attention/value/b": ((3, 2, 4), P(None, "tensor", None)),
    f"{BLOCK}/attention/output/b": ((3, 16), P(None, "fsdp")),
    f"{BLOCK}/feedforward/gate/b": ((3, 32), P(None, "tensor")),
    f"{BLOCK}/feedforward/up/b": ((3, 32), P(None, "tensor")),
    f"{BLOCK}/feedforward/down/b": ((3, 16), P(None, "fsdp")),
}
DEPTHS = {
    "decoder/layers/depths/router/w": ((3, 16, 1), P(None, "fsdp", None)),
    "decoder/layers/depths/predictor_in/w": ((3, 16, 4), P(None, "fsdp", None)),
    "decoder/layers/depths/predictor_out/w": ((3, 4, 1), P(None, None, None)),
    "decoder/layers/depths/predictor_out/b": ((3, 1), P(None, None)),
}
DELTA = {
    f"{BLOCK}/attention/decay/w": ((3, 16, 4), P(None, "fsdp", "tensor")),
    f"{BLOCK}/attention/write/w": ((3, 16, 4), P(None, "fsdp", "tensor")),
    f"{BLOCK}/attention/decay_rate": ((3, 4), P(None, "tensor")),
    f"{BLOCK}/attention/decay_shift": ((3, 4), P(None, "tensor")),
    f"{BLOCK}/attention/read_norm/scale": ((3, 4), P(None, None)),
}
SPARSE = {f"{BLOCK}/attention/gates/w": ((3, 16, 4, 3), P(None, "fsdp", "tensor", None))}
SPIKING = {
    f"{BLOCK}/attention/drive/w": ((3, 16, 2), P(None, "fsdp", "tensor")),
    f"{BLOCK}/attention/threshold": ((3, 2), P(None, "tensor")),
}
KEYS = {
    f"{BLOCK}/knowledge/query/w": ((3, 16, 2, 2, 32), P(None, "fsdp", "tensor", None, None)),
    f"{BLOCK}/knowledge/query_norm/scale": ((3, 32), P(None, None)),
    f"{BLOCK}/knowledge/keys": ((3, 2, 2, 6, 32), P(None, "tensor", None, "fsdp", None)),
    f"{BLOCK}/knowledge/values": ((3, 36, 12), P(None, "fsdp", "tensor")),
    f"{BLOCK}/knowledge/gate/w": ((3, 16, 12), P(None, "fsdp", "tensor")),
    f"{BLOCK}/knowledge/output/w": ((3, 12, 16), P(None, "tensor", "fsdp")),
}
HASHED = {
    f"{BLOCK}/knowledge/table": ((3, 160, 6), P(None, "fsdp", "tensor")),
    f"{BLOCK}/knowledge/key/w": ((3, 4, 6, 16), P(None, None, "tensor", "fsdp")),
    f"{BLOCK}/knowledge/value/w": ((3, 4, 6, 16), P(None, None, "tensor", "fsdp")),
    f"{BLOCK}/knowledge/query_norm/scale": ((3, 16), P(None, None)),
    f"{BLOCK}/knowledge/key_norm/scale": ((3, 16), P(None, None)),
}
MEMORY = {
    f"{BLOCK}/memory_norm/scale": ((3, 16), P(None, "fsdp")),
    f"{BLOCK}/memory/query/w": ((3, 16, 4, 4), P(None, "fsdp", "tensor", None)),
    f"{BLOCK}/memory/key/w": ((3, 16, 4, 4), P(None, "fsdp", "tensor", None)),
    f"{BLOCK}/memory/value/w": ((3, 16, 4, 4), P(None, "fsdp", "tensor", None)),
    f"{BLOCK}/memory/output/w": ((3, 4, 4, 16), P(None, "tensor", None, "fsdp")),
    f"{BLOCK}/memory/memory_queries_conv/kernel": ((3, 4, 4, 4), P(None, None, "tensor", None)),
    f"{BLOCK}/memory/memory_keys_conv/kernel": ((3, 4, 4, 4), P(None, None, "tensor", None)),
    f"{BLOCK}/memory/memory_values_conv/kernel": ((3, 4, 4, 4), P(None, None, "tensor", None)),
    f"{BLOCK}/memory/gates/w": ((3, 16, 4, 4), P(None, "fsdp", "tensor", None)),
    f"{BLOCK}/memory/gates/b": ((3, 4, 4), P(None, "tensor", None)),
    f"{BLOCK}/memory/scale": ((3, 4), P(None, "tensor")),
    f"{BLOCK}/memory/slope": ((3, 4), P(None, "tensor")),
    f"{BLOCK}/memory/nothing": ((3, 4), P(None, "tensor")),
    f"{BLOCK}/memory/episodic_scale": ((3, 4), P(None, "tensor")),
    f"{BLOCK}/memory/episodic_nothing": ((3, 4), P(None, "tensor")),
    f"{BLOCK}/memory/decay/w": ((3, 16, 4), P(None, "fsdp", "tensor")),
    f"{BLOCK}/memory/write/w": ((3, 16, 4), P(None, "fsdp", "tensor")),
    f"{BLOCK}/memory/decay_rate": ((3, 4), P(None, "tensor")),
    f"{BLOCK}/memory/decay_shift": ((3, 4), P(None, "tensor")),
    f"{BLOCK}/memory/probe": ((3, 2, 4, 4), P(None, None, "tensor", None)),
    f"{BLOCK}/memory/probe_scale": ((3, 4), P(None, "tensor")),
    f"{BLOCK}/memory/forget": ((3, 4), P(None, "tensor")),
    f"{BLOCK}/memory/put": ((3, 2, 4), P(None, None, "tensor")),
    f"{BLOCK}/memory/question": ((3, 4, 4), P(None, "tensor", None)),
    f"{BLOCK}/memory/task_norm/scale": ((3, 16), P(None, None)),
    f"{BLOCK}/memory/address/w": ((3, 16, 3), P(None, "fsdp", None)),
    f"{BLOCK}/memory/bank": ((3, 3, 2, 16), P(None, None, None, "fsdp")),
}
CHANNELS = {
    f"{BLOCK}/memory/across/w": ((3, 4, 4, 4), P(None, "tensor", None, None)),
    f"{BLOCK}/memory/decay_shifts": ((3, 4, 4), P(None, "tensor", None)),
    f"{BLOCK}/memory/decay_channels/w": ((3, 16, 4, 4), P(None, "fsdp", "tensor", None)),
    f"{BLOCK}/memory/write_channels/w": ((3, 16, 4, 4), P(None, "fsdp", "tensor", None)),
    f"{BLOCK}/memory/erase_channels/w": ((3, 16, 4, 4), P(None, "fsdp", "tensor", None)),
}
GRAPH = {
    f"{BLOCK}/graph_norm/scale": ((3, 16), P(None, "fsdp")),
    f"{BLOCK}/graph/edges/query/w": ((3, 16, 2, 6), P(None, "fsdp", None, None)),
    f"{BLOCK}/graph/edges/key/w": ((3, 16, 2, 6), P(None, "fsdp", None, None)),
    f"{BLOCK}/graph/edges/sharpness": ((3, 2), P(None, None)),
    f"{BLOCK}/graph/input/w": ((3, 16, 12), P(None, "fsdp", None)),
    f"{BLOCK}/graph/output/w": ((3, 12, 16), P(None, None, "fsdp")),
    f"{BLOCK}/graph/reasoner/neuron/message/w": ((3, 2, 12, 12), P(None, None, "fsdp", None)),
    f"{BLOCK}/graph/reasoner/neuron/gate/w": ((3, 36, 12), P(None, "fsdp", None)),
    f"{BLOCK}/graph/reasoner/neuron/gate/b": ((3, 12), P(None, None)),
    f"{BLOCK}/graph/reasoner/neuron/candidate/w": ((3, 36, 12), P(None, "fsdp", None)),
    f"{BLOCK}/graph/reasoner/neuron/candidate/b": ((3, 12), P(None, None)),
    f"{BLOCK}/graph/reasoner/halt/logit/w": ((3, 24, 1), P(None, None, None)),
    f"{BLOCK}/graph/reasoner/halt/logit/b": ((3, 1), P(None, None)),
}
GATV2 = f"{BLOCK}/graph/reasoner/graph_block"
GRAPH_ATTENTION = {path: GRAPH[path] for path in GRAPH if "neuron" not in path} | {
    f"{GATV2}/attention_norm/scale": ((3, 12), P(None, "fsdp")),
    f"{GATV2}/graph_attention/reader/w": ((3, 12, 2, 6), P(None, "fsdp", None, None)),
    f"{GATV2}/graph_attention/read/w": ((3, 12, 2, 6), P(None, "fsdp", None, None)),
    f"{GATV2}/graph_attention/direction": ((3, 2, 6), P(None, None, None)),
    f"{GATV2}/graph_attention/kind": ((3, 2, 2, 6), P(None, None, None, None)),
    f"{GATV2}/graph_attention/output/w": ((3, 2, 6, 12), P(None, None, None, "fsdp")),
    f"{GATV2}/feedforward_norm/scale": ((3, 12), P(None, "fsdp")),
    f"{GATV2}/up/w": ((3, 12, 24), P(None, "fsdp", None)),
    f"{GATV2}/down/w": ((3, 24, 12), P(None, None, "fsdp")),
}
CIRCUIT = {
    f"{BLOCK}/quantum_norm/scale": ((3, 16), P(None, "fsdp")),
    f"{BLOCK}/quantum/input/w": ((3, 16, 3), P(None, "fsdp", None)),
    f"{BLOCK}/quantum/circuit/angles": ((3, 2, 6), P(None, None, None)),
    f"{BLOCK}/quantum/output/w": ((3, 3, 16), P(None, None, "fsdp")),
}
OVERLAP = {
    f"{BLOCK}/quantum_norm/scale": ((3, 16), P(None, "fsdp")),
    f"{BLOCK}/overlap/query/w": ((3, 16, 2, 6), P(None, "fsdp", None, None)),
    f"{BLOCK}/overlap/key/w": ((3, 16, 2, 6), P(None, "fsdp", None, None)),
    f"{BLOCK}/overlap/angles": ((3, 2, 12), P(None, None, None)),
    f"{BLOCK}/overlap/value/w": ((3, 16, 2, 4), P(None, "fsdp", None, None)),
    f"{BLOCK}/overlap/output/w": ((3, 2, 4, 16), P(None, None, None, "fsdp")),
}
CORE_ALONE = {
    "decoder/core/core_norm/scale": ((16,), P("fsdp")),
    "decoder/core/inject/w": ((16, 16), P("fsdp", None)),
    "decoder/core/copy_gate/open/w": ((16, 16), P("fsdp", None)),
    "decoder/core/copy_gate/open/b": ((16,), P(None)),
    "decoder/core/copy_gate/steps": ((3, 16), P(None, None)),
    "decoder/core/controller/confidence/w": ((16, 1), P(None, None)),
    "decoder/core/controller/confidence/b": ((1,), P(None)),
    "decoder/core/controller/summary/w": ((16, 64), P(None, None)),
    "decoder/core/controller/summary/b": ((64,), P(None)),
    "decoder/core/controller/told/w": ((3, 64), P(None, None)),
    "decoder/core/controller/decide/w": ((64, 1), P(None, None)),
    "decoder/core/controller/decide/b": ((1,), P(None)),
    "decoder/core/controller/steps": ((3, 64), P(None, None)),
    "decoder/core/log_prices": ((2,), P(None)),
}
EVERY = (
    CORE_ALONE
    | MEMORY
    | CHANNELS
    | KEYS
    | HASHED
    | GRAPH
    | GRAPH_ATTENTION
    | CIRCUIT
    | OVERLAP
    | DEPTHS
    | DELTA
    | SPARSE
    | SPIKING
    | DENSE
    | EXPERTS
    | RICH
    | BIASED
)


def paths(config: AGIConfig) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(TMSModel(config).shapes)
    return {path_name(path): leaf.shape for path, leaf in leaves}


@pytest.mark.parametrize("path", EVERY)
def test_a_path_lies_where_the_table_says(path: str) -> None:
    shape, spec = EVERY[path]
    assert partition_spec(path, shape, MESH) == spec


def test_the_table_above_is_complete() -> None:
    sparse = paths(AGIConfig.from_preset("tiny", experts={"num_experts": 4}))
    assert set(paths(AGIConfig.from_preset("tiny"))) == set(DENSE) | set(RECIPE)
    assert set(sparse) | set(DENSE) == set(DENSE | EXPERTS) | set(RECIPE)
    rich = paths(small_config(num_layers=3, position_encoding="learned", **options.RICH))
    missing = {path: shape for path, shape in rich.items() if path not in DENSE}
    assert missing == {path: shape for path, (shape, _) in RICH.items()}
    assert set(DENSE) - set(rich) == {f"{BLOCK}/feedforward/gate/w"}, "relu2 has no gate"
    forms: dict[str, dict[str, Any]] = {
        "depths": {"depths": {"capacity": 0.5, "every": 1}},
        "delta": {"attention_type": "delta", "num_kv_heads": None},
        "sparse": {"attention_type": "sparse"},
        "spiking": {"attention_type": "spiking"},
        "product keys": options.KEYS,
        "hashed memory": options.HASHED,
        "graph": options.GRAPH,
        "attention along a graph's edges": options.GRAPH_ATTENTION,
        "quantum circuit": {**options.CIRCUIT, "quantum_layers": 3},
        "overlap of states": {**options.OVERLAP, "quantum_layers": 3},
    }
    tables = (
        DEPTHS, DELTA, SPARSE, SPIKING, KEYS, HASHED, GRAPH, GRAPH_ATTENTION, CIRCUIT, OVERLAP,
    )  # fmt: skip
    for form, table in zip(forms.values(), tables, strict=True):
        found = paths(small_config(num_layers=3, **form))
        missing = {path: shape for path, shape in found.items() if path not in DENSE}
        assert missing == {path: shape for path, (shape, _) in table.items()}
    core = paths(small_config(**options.CONTROLLED))
    block = "decoder/core/block/"
    assert {path for path in core if "/core/" in path and block not in path} == set(CORE_ALONE)
    inside = {path.replace(block, f"{BLOCK}/") for path in core if block in path}
    assert inside <= set(DENSE), "its layers are layers"
    memory = {
        "segment": 4, "stm_window": 4, "episodic_slots": 8, "recurrent": "gated_delta",
        "task_tokens": 2, "task_slots": 3,
    }  # fmt: skip
    by_head = paths(small_config(num_layers=3, memory=memory))
    missing = {path: shape for path, shape in by_head.items() if path not in DENSE}
    assert missing == {path: shape for path, (shape, _) in MEMORY.items()}
    wider = memory | {"recurrent": "erase_write", "fusion": "cross"}
    by_feature = paths(small_config(num_layers=3, memory=wider))
    missing = {path: shape for path, shape in by_feature.items() if path not in DENSE | MEMORY}
    assert missing == {path: shape for path, (shape, _) in CHANNELS.items()}
    rounds = {"num_experts": 4, "every": 3}
    mixed = small_config(num_layers=12, experts=rounds, depths={"capacity": 0.5})
    for path, shape in paths(mixed).items():
        partition_spec(path, shape, MESH)
    assert "decoder/layers/depths_2/router/w" in paths(mixed)
    biased = paths(small_config(num_layers=3, norm="layer", biases="all", norm_outputs=True))
    missing = {path: shape for path, shape in biased.items() if path not in DENSE}
    assert missing == {path: shape for path, (shape, _) in BIASED.items()}


@pytest.mark.parametrize("num_experts", [0, 8])
@pytest.mark.parametrize("preset", PRESETS)
def test_every_parameter_of_every_preset_matches_exactly_one_rule(
    preset: str, num_experts: int
) -> None:
    """And is split over all of fsdp x tensor unless it is a router or grows with one axis only."""
    config = AGIConfig.from_preset(preset, experts={"num_experts": num_experts})
    for path, shape in paths(config).items():
        spec = partition_spec(path, shape, MESH)
        whole = path.endswith(("scale", "conv/kernel", "mix/weights")) or "router" in path
        assert {"fsdp", "tensor"} <= set(spec) or whole, (path, spec)


def test_a_dimension_that_the_mesh_does_not_divide_stays_whole() -> None:
    spec = partition_spec(f"{BLOCK}/attention/key/w", (3, 16, 3, 4), MESH)
    assert spec == P(None, "fsdp", None, None)


@pytest.mark.parametrize("path", ["decoder/bias", f"{BLOCK}/memory/w", "decoder/embedding/extra"])
def test_a_parameter_without_a_rule_raises(path: str) -> None:
    with pytest.raises(ValueError, match=f"{path} matches 0 partition rules, expected exactly one"):
        partition_spec(path, (4, 4), MESH)


def test_a_parameter_with_two_rules_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(rules.RULES, r".*/gate/w", (None, None))
    with pytest.raises(ValueError, match="feedforward/gate/w matches 2 partition rules"):
        partition_spec(f"{BLOCK}/feedforward/gate/w", (3, 16, 32), MESH)


def test_stacked_layers_share_no_axis_of_their_own() -> None:
    assert own_axes("decoder/embedding", 2) == (0, 1)
    assert own_axes(f"{BLOCK}/experts/gate/w", 4) == (1, 2, 3)
    assert own_axes("decoder/layers_1/block_2/experts/gate/w", 4) == (1, 2, 3)
    assert own_axes("decoder/layers_wide", 2) == (0, 1)


def test_a_rule_matches_whole_names_only() -> None:
    with pytest.raises(ValueError, match="matches 0"):
        partition_spec("otherdecoder/embedding", (4, 4), MESH)
