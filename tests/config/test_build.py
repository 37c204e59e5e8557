"""Preset, file and overrides: who wins, and what is refused with which words."""

import dataclasses
from pathlib import Path

import pytest

from rtdlm.config import PRESETS, AGIConfig, UserError, build_config, to_yaml
from rtdlm.config.build import differences, parse_assignments


def refused(**overrides: object) -> str:
    with pytest.raises(UserError) as caught:
        AGIConfig.from_preset("tiny", **overrides)
    return str(caught.value)


def test_overrides_beat_the_file_and_the_file_beats_the_preset(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("d_ff: 512\nseed: 3\noptimizer: {name: adamw, warmup_steps: 7}\n")
    config = build_config(preset="tiny", file=file, overrides={"seed": 4, "optimizer.beta1": 0.8})
    assert (config.d_model, config.d_ff, config.seed) == (256, 512, 4)
    assert config.optimizer.name == "adamw"
    assert config.optimizer.warmup_steps == 7
    assert config.optimizer.beta1 == 0.8


def test_a_file_may_name_its_preset_and_the_argument_wins(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("preset: small\n")
    assert build_config(file=file).d_model == 512
    assert build_config(file=file, preset="base").d_model == 768


@pytest.mark.parametrize("preset", PRESETS)
def test_yaml_round_trip_is_the_identity(preset: str, tmp_path: Path) -> None:
    config = AGIConfig.from_preset(
        preset,
        data={"text": ("a", "b"), "held_out_fraction": 1e-3},
        optimizer={"weight_decay_rules": {"norm": 0.0}, "learning_rate": 1e-5},
    )
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(config))
    assert build_config(file=file) == config


def test_from_preset_takes_sections_as_mappings_or_dataclasses() -> None:
    one = AGIConfig.from_preset("tiny", optimizer={"name": "lion"})
    other = AGIConfig.from_preset("tiny", optimizer=one.optimizer)
    assert one == other
    assert one.optimizer.name == "lion"


def test_replace_keeps_what_it_is_not_told_to_change() -> None:
    config = AGIConfig.from_preset("small", loss={"z_loss": 1e-4})
    changed = config.replace(loss={"chunk_size": 64}, attention_type="mqa")
    assert (changed.loss.z_loss, changed.loss.chunk_size) == (1e-4, 64)
    assert (changed.kv_heads, changed.d_model, changed.num_kv_heads) == (1, 512, None)
    assert config.replace() == config


def test_configs_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        AGIConfig().d_model = 1  # type: ignore[misc]


def test_assignments_are_read_as_yaml() -> None:
    items = ["optimizer.learning_rate=1e-4", "data.text=[a, b]", "qk_norm=false", "num_steps=null"]
    assert parse_assignments(items) == {
        "optimizer.learning_rate": 1e-4,
        "data.text": ["a", "b"],
        "qk_norm": False,
        "num_steps": None,
    }


def test_an_assignment_without_a_value_is_refused() -> None:
    with pytest.raises(UserError, match="^--set 'd_model' has no '='; write --set section.key="):
        parse_assignments(["d_model"])


def test_differences_names_dotted_fields() -> None:
    ours = AGIConfig.from_preset("tiny", seed=1, optimizer={"warmup_steps": 3})
    assert differences(ours, AGIConfig.from_preset("tiny")) == {
        "seed": (1, 0),
        "optimizer.warmup_steps": (3, 50),
    }


def test_changing_a_governor_releases_what_it_governed_below() -> None:
    assert AGIConfig.from_preset("tiny").num_kv_heads == 2
    config = AGIConfig.from_preset("tiny", attention_type="mha")
    assert config.num_kv_heads is None
    assert config.kv_heads == 4
    sliding = config.replace(attention_type="sliding", attention={"window": 64}, num_kv_heads=2)
    assert (sliding.attention.reach, sliding.kv_heads) == (64, 2)
    dense = sliding.replace(attention_type="gqa")
    assert (dense.attention.window, dense.kv_heads) == (None, 2), "the section's field is let go"


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"num_layer": 3}, "unknown option 'num_layer'; did you mean 'num_layers'?"),
        (
            {"learning_rate": 3.0},
            "unknown option 'learning_rate'; did you mean 'optimizer.learning_rate'?",
        ),
        (
            {"optimizer": {"lr": 1.0}},
            "unknown option 'optimizer.lr'; did you mean 'optimizer.learning_rate'?",
        ),
        (
            {"zebra": 1},
            "unknown option 'zebra'; run `python -m rtdlm.train --help` for the list",
        ),
        ({"optimizer": 3}, "optimizer is a section, got 3; set its fields, optimizer.NAME"),
        ({"d_model": "wide"}, "d_model='wide' is no int; change the value"),
        ({"d_model": None}, "d_model is empty, expected int; give it a value"),
        ({"num_steps": 1.5}, "num_steps=1.5 is no int or null; change the value"),
        (
            {"optimizer": {"name": "adam"}},
            "optimizer.name='adam' is no choice of 'adamw', 'muon', 'adafactor', 'lion', "
            "'schedule_free', 'sgd'; change the value",
        ),
        ({"seed": -1}, "seed=-1 is outside 0 to 2**63 - 1"),
        (
            {"optimizer": {"learning_rate": float("inf")}},
            "optimizer.learning_rate=inf is not finite; use a plain number",
        ),
        (
            {"d_model": 250},
            "d_model=250 is not divisible by num_heads=4; use a multiple of 4 for d_model, or set "
            "attention.head_dim",
        ),
        (
            {"num_kv_heads": 3},
            "num_heads=4 is not divisible by num_kv_heads=3; use a divisor of 4",
        ),
        ({"rope_base": 0.0}, "rope_base=0.0 must be positive"),
        (
            {"d_model": 12},
            "heads have 3 features (attention.head_dim, or d_model=12 over num_heads=4), which is "
            "odd; rope rotates pairs of them",
        ),
        (
            {"batch_size": 6, "accumulate_steps": 4},
            "batch_size=6 is not divisible by accumulate_steps=4",
        ),
        (
            {"num_steps": 5, "num_epochs": 1.0},
            "num_steps=5 and num_epochs=1.0 are two budgets for one run; keep one",
        ),
        (
            {"attention_type": "mqa", "num_kv_heads": 2},
            "num_kv_heads=2 has no effect with attention_type='mqa': only 'gqa' or 'ring' or "
            "'sliding' or 'sparse' or 'linear' or 'spiking' reads it; remove num_kv_heads or "
            "change attention_type",
        ),
        (
            {"experts": {"num_experts": 4, "top_k": 4, "bias_rate": 0.1}},
            "experts.bias_rate=0.1 has no effect with experts.top_k=4 and experts.num_experts=4: "
            "every token uses all; choose fewer",
        ),
        (
            {"attention": {"window": 64}},
            "attention.window=64 has no effect with attention_type='gqa': only 'sliding' or "
            "'sparse' reads it; remove attention.window or change attention_type",
        ),
        (
            {"attention_type": "sliding", "attention": {"chosen": 2}},
            "attention.chosen=2 has no effect with attention_type='sliding': only 'sparse' reads "
            "it; remove attention.chosen or change attention_type",
        ),
        (
            {"attention_type": "sparse", "attention": {"sparse_form": "topk", "block": 8}},
            "attention.block=8 has no effect with attention.sparse_form='topk': only 'native' "
            "reads it; remove attention.block or change attention.sparse_form",
        ),
        (
            {"attention_type": "sparse", "attention": {"global_tokens": 8}},
            "attention.global_tokens=8 has no effect with attention.sparse_form='native': only "
            "'topk' reads it; remove attention.global_tokens or change attention.sparse_form",
        ),
        (
            {"attention_type": "sliding", "attention": {"sparse_form": "topk"}},
            "attention.sparse_form='topk' has no effect with attention_type='sliding'; remove it "
            "or use attention_type='sparse'",
        ),
        (
            {"attention_type": "sparse", "attention": {"block": 8, "window": 4}},
            "attention.block=8 exceeds attention.window=4: tokens between the window and the last "
            "whole block would be out of reach; choose a smaller block",
        ),
        (
            {"attention": {"sinks": 4}},
            "attention.sinks=4 has no effect with attention_type='gqa': only 'sliding' reads it; "
            "remove attention.sinks or change attention_type",
        ),
        *(
            (
                {"attention_type": kind, "attention": {name: 2, **form}, "max_seq_len": 256},
                f"attention.{name}=2 has no effect with attention.window=256 and max_seq_len=256: "
                f"the window reads whole rows; choose a smaller attention.window or remove "
                f"attention.{name}",
            )
            for kind, name, form in (
                ("sliding", "sinks", {}),
                ("sparse", "chosen", {}),
                ("sparse", "global_tokens", {"sparse_form": "topk"}),
            )
        ),
        (
            {"attention_type": "sliding", "attention": {"sinks": 0}},
            "attention.sinks=0 must be at least 1; to have none remove it",
        ),
        (
            {"attention_type": "linear", "position_encoding": "alibi"},
            "position_encoding='alibi' cannot be combined with attention_type='linear': it lowers "
            "scores, which only 'mha', 'gqa', 'mqa', 'ring', 'sliding' have; use another "
            "position_encoding",
        ),
        (
            {"attention_type": "sliding", "attention": {"window": 0}},
            "attention.window=0 must be at least 1",
        ),
        (
            {"optimizer": {"schedule": "cosine", "decay_fraction": 0.3}},
            "optimizer.decay_fraction=0.3 has no effect with optimizer.schedule='cosine': only "
            "'wsd' reads it; remove optimizer.decay_fraction or change optimizer.schedule",
        ),
        (
            {"experts": {"top_k": 2}},
            "experts.top_k=2 has no effect with experts.num_experts=0; set experts.num_experts or "
            "remove it",
        ),
        (
            {"feedforward": "gelu", "experts": {"num_experts": 4}},
            "feedforward='gelu' has no effect with experts.num_experts=4: experts are 'swiglu'; "
            "remove feedforward or the experts",
        ),
        ({"embedding_std": 0.0}, "embedding_std=0.0 must be positive"),
        ({"short_conv": 1}, "short_conv=1 must be 0 (none) or at least 2; usual are 3 and 4"),
        (
            {"short_conv": 0, "short_conv_places": ["keys"]},
            "short_conv_places=('keys',) has no effect with short_conv=0; set short_conv, for "
            "instance to 4, or remove it",
        ),
        (
            {"short_conv": 3, "short_conv_places": ["keys", "keys"]},
            "short_conv_places=('keys', 'keys') must name each place once, and at least one; to "
            "have no convolutions set short_conv=0",
        ),
        (
            {"ngram": {"buckets": 100}},
            "ngram.buckets=100 has no effect with ngram.orders=(); set ngram.orders, for instance "
            "to [2, 3], or remove it",
        ),
        (
            {"ngram": {"orders": [1, 2]}},
            "ngram.orders=(1, 2) must be different numbers of at least 2; one token is what the "
            "embedding looks up",
        ),
        ({"ngram": {"orders": [2], "dim": 0}}, "ngram.dim=0 must be at least 1"),
        (
            {"memory": {"stm_window": 8}},
            "memory has a tier and no segment to carry it across; set memory.segment, for instance "
            "to 64",
        ),
        (
            {"memory": {"segment": 8, "heads": 2}},
            "memory.heads=2 has no effect without a tier; set memory.stm_window, memory.recurrent, "
            "memory.episodic_slots, memory.summary_slots or memory.task_tokens, or remove it",
        ),
        (
            {"memory": {"segment": 8, "stm_window": 8, "forget": "use"}},
            "memory.forget='use' has no effect with memory.episodic_slots=0; remove it",
        ),
        (
            {"memory": {"segment": 8, "stm_window": 8, "fusion": "cross"}},
            "memory.fusion='cross' weighs tiers against each other and there is only stm; use "
            "'gated' or another tier",
        ),
        (
            {"memory": {"segment": 8, "episodic_slots": 4}},
            "memory.episodic_slots=4 cannot hold the 8 tokens that a segment stores; choose more "
            "slots or a smaller segment",
        ),
        (
            {"memory": {"segment": 8, "stm_window": 8, "stm_weight": 1.0}},
            "memory.stm_weight=1.0 is outside (0, 1)",
        ),
        (
            {"memory": {"segment": 8, "summary_slots": 4, "summary_chunk": 3}},
            "memory.summary_chunk=3 does not divide memory.segment=8; use one of its divisors",
        ),
        (
            {"memory": {"segment": 8, "stm_window": 8, "summary_chunk": 4}},
            "memory.summary_chunk=4 has no effect with memory.summary_slots=0; remove it",
        ),
        (
            {"memory": {"segment": 16, "stm_window": 8}, "max_seq_len": 8},
            "memory.segment=16 exceeds max_seq_len=8: no row would have a second segment; choose a "
            "smaller segment or longer rows",
        ),
        (
            {"memory": {"segment": 8, "stm_window": 8, "every": 9}},
            "memory.every=9 exceeds num_layers=4: no layer would have memory; choose less",
        ),
        (
            {"memory": {"segment": 8, "stm_window": 8}, "depths": {"capacity": 0.5}},
            "memory.segment=8 cannot be combined with depths.capacity=0.5 yet: memory reads all "
            "tokens of a segment; remove one",
        ),
        (
            {"knowledge": {"rows": 64}},
            "knowledge.rows=64 has no effect with knowledge.kind='none': only 'product_key' or "
            "'ngram' reads it; remove knowledge.rows or change knowledge.kind",
        ),
        (
            {"knowledge": {"kind": "product_key", "orders": [2]}},
            "knowledge.orders=(2,) has no effect with knowledge.kind='product_key': only 'ngram' "
            "reads it; remove knowledge.orders or change knowledge.kind",
        ),
        (
            {"knowledge": {"kind": "ngram", "top_k": 4}},
            "knowledge.top_k=4 has no effect with knowledge.kind='ngram': only 'product_key' reads "
            "it; remove knowledge.top_k or change knowledge.kind",
        ),
        (
            {"knowledge": {"kind": "product_key", "rows": 4, "top_k": 5}},
            "knowledge.top_k=5 is outside 2 to knowledge.rows=4: the share of a single value is "
            "one whatever its score, which would teach no query",
        ),
        (
            {"knowledge": {"kind": "product_key", "key_dim": 5}},
            "knowledge.key_dim=5 is odd; a query has two halves, so use an even number",
        ),
        (
            {"knowledge": {"kind": "product_key", "rows": 50000}},
            "knowledge.rows=50000 makes 2500000000 rows a layer, beyond 2147483647, the largest "
            "number of 32 bits; use fewer",
        ),
        (
            {"knowledge": {"kind": "ngram", "orders": [2, 2]}},
            "knowledge.orders=(2, 2) must be different numbers of at least 2, and at least one; "
            "one token is what the embedding looks up",
        ),
        (
            {"knowledge": {"kind": "ngram", "heads": 0}},
            "knowledge.heads=0 must be at least 1",
        ),
        (
            {"precision": {"initial_loss_scale": 8.0}},
            "precision.initial_loss_scale=8.0 has no effect with precision.compute='auto': only "
            "'float16' reads it; remove precision.initial_loss_scale or change precision.compute",
        ),
        (
            {"data": {"shards": ["a"], "weights": [1.0, 2.0]}},
            "data.weights has 2 entries for 1 directories in data.shards; give one weight a "
            "directory or none",
        ),
    ],
)
def test_refusals_say_what_to_do(overrides: dict[str, object], sentence: str) -> None:
    assert refused(**overrides) == sentence


def test_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(UserError) as caught:
        AGIConfig.from_preset("tinny")
    assert str(caught.value) == (
        "unknown preset 'tinny'; did you mean 'tiny'? presets are tiny, small, base, large, xlarge,"
        " xxlarge"
    )


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"a: [", "is not readable YAML"),
        (b"\xff\xfe\xfa", "is not readable YAML"),
        (b"- 1\n", "holds list, expected key: value lines"),
    ],
)
def test_an_unreadable_file_is_named(content: bytes, part: str, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_bytes(content)
    with pytest.raises(UserError, match=part) as caught:
        build_config(file=file)
    assert str(file) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.yaml does not exist; check the path"):
        build_config(file=tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("item", "part"),
    [
        ("d_model=[", "--set 'd_model=[' is not readable YAML: "),
        ("d_model=*b", "is not readable YAML: "),
        ("d_model=!!python/object:os.system", "is not readable YAML: "),
        ("optimizer.learning_rate_rules={a: 1, a: 2}", "key 'a' is given twice"),
    ],
)
def test_an_assignment_that_is_no_yaml_is_refused(item: str, part: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_assignments([item])
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_given_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="^--set seed is given twice; keep one$"):
        parse_assignments(["seed=1", "seed=2"])
    with pytest.raises(UserError, match=r"^optimizer\.name is given twice, dotted and in its sec"):
        build_config(overrides={"optimizer": {"name": "lion"}, "optimizer.name": "sgd"})
    file = tmp_path / "run.yaml"
    file.write_text("seed: 1\nseed: 2\n")
    with pytest.raises(UserError, match="key 'seed' is given twice"):
        build_config(file=file)


def test_infinity_is_a_number_where_it_means_something() -> None:
    [tree] = [parse_assignments(["optimizer.clip_norm=inf"])]
    assert build_config(overrides=tree).optimizer.clip_norm == float("inf")


@pytest.mark.parametrize("content", ["1: 2\n", "preset: [tiny]\n", "preset: 5\n"])
def test_odd_keys_and_presets_are_refused(content: str, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(content)
    with pytest.raises(UserError):
        build_config(file=file)


def test_a_directory_is_no_config_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        build_config(file=tmp_path)
