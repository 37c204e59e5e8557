"""What a run takes over from the model it starts from, what it may change, and what is refused."""

from pathlib import Path
from typing import Any

import pytest

from rtdlm.config import AGIConfig, UserError
from rtdlm.config.build import differences, value_at
from rtdlm.config.command_line import add_config_flags, config_on_model, make_parser
from rtdlm.config.fields import field_docs
from rtdlm.config.inherit import FREE, RUN, inherit, model_part

FOLDER = Path("runs/base")
TRAINED = AGIConfig.from_preset(
    "tiny", seed=7, batch_size=4, dropout_rate=0.1, num_steps=9, remat="full", max_seq_len=96,
    rope_base=5000.0, experts={"num_experts": 4, "jitter": 0.01}, data={"tokenizer": "byte"},
    optimizer={"name": "adamw"}, mesh={"fsdp": 2},
)  # fmt: skip
MODEL = model_part(TRAINED, tokenizer="base/tokenizer.json")


def inherited(*, model: AGIConfig = MODEL, file: str | None = None, **overrides: Any) -> AGIConfig:
    dotted = {name.replace("__", "."): value for name, value in overrides.items()}
    return inherit(model, folder=FOLDER, file=file, overrides=dotted)


def refusal(**given: Any) -> str:
    with pytest.raises(UserError) as caught:
        inherited(**given)
    return str(caught.value)


def test_every_name_is_a_field_or_a_section() -> None:
    names = {doc.name for doc in field_docs()}
    assert set(FREE) <= names
    assert set(RUN) <= names | {name.split(".")[0] for name in names if "." in name}


def test_the_model_is_taken_over_and_the_rest_starts_from_its_defaults() -> None:
    own = {name for name in differences(MODEL, AGIConfig()) if name.split(".")[0] in RUN}
    assert own == {"data.tokenizer"}
    assert MODEL.data.tokenizer == "base/tokenizer.json"
    assert (MODEL.max_seq_len, MODEL.rope_base, MODEL.experts) == (96, 5000.0, TRAINED.experts)
    theirs = {name for name in differences(MODEL, TRAINED) if name.split(".")[0] not in RUN}
    assert theirs == set()
    assert inherited() == MODEL


def test_training_is_the_run_s_own() -> None:
    config = inherited(
        seed=3, batch_size=16, optimizer__name="lion", remat="dots", num_steps=5, mesh__fsdp=4,
        precision__compute="float32",
    )  # fmt: skip
    assert (config.seed, config.batch_size, config.optimizer.name) == (3, 16, "lion")
    assert (config.remat, config.num_steps, config.mesh.fsdp) == ("dots", 5, 4)
    assert config.experts == TRAINED.experts


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_seq_len", 512), ("experts.jitter", 0.05), ("experts.balance_weight", 0.1)],
)
def test_what_acts_in_training_alone_may_change(name: str, value: Any) -> None:
    config = inherit(MODEL, folder=FOLDER, file=None, overrides={name: value})
    assert config == MODEL.replace(**value_at(name, value))


def test_a_contradiction_is_one_sentence_that_names_every_field() -> None:
    assert refusal(d_model=512, d_ff=1536, rope_base=1e6, experts__top_k=1) == (
        "the model that --from runs/base names has d_model=256, not 512, rope_base=5000.0, not "
        "1000000.0, experts.top_k=None, not 1; leave that out, or train a new model without --from"
    )


def test_no_other_tokenizer_may_be_named() -> None:
    assert "has data.tokenizer='base/tokenizer.json', not 'byte'; leave" in refusal(
        data__tokenizer="byte"
    )
    assert "not 'bpe'" in refusal(data__tokenizer="bpe"), "the default is a choice, too"


def test_learned_positions_are_as_many_as_they_are() -> None:
    learned = model_part(
        TRAINED.replace(position_encoding="learned", rope_base=None), tokenizer="t"
    )
    assert "has max_seq_len=96, not 64" in refusal(model=learned, max_seq_len=64)
    assert inherited(model=learned, max_seq_len=96) == learned


def test_a_preset_is_refused_wherever_it_stands(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("preset: tiny\nseed: 4\n")
    assert refusal(file=str(file)) == (
        f"config file {file} names a preset, which is a model's size, and --from runs/base brings "
        "a model; leave out one of them"
    )
    parser = make_parser("train", "")
    add_config_flags(parser)
    with pytest.raises(UserError, match="^--preset small is given, which is a model's size, and"):
        config_on_model(parser.parse_args(["--preset", "small"]), MODEL, FOLDER)


def test_a_file_lies_between_the_model_and_the_flags(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("d_model: 256\nseed: 4\noptimizer: {name: sgd, warmup_steps: 3}\n")
    parser = make_parser("train", "")
    add_config_flags(parser)
    flags = parser.parse_args(["--config", str(file), "--seed", "5"])
    config = config_on_model(flags, MODEL, FOLDER)
    assert (config.seed, config.optimizer.warmup_steps, config.rope_base) == (5, 3, 5000.0)
    file.write_text("d_model: 128\n")
    with pytest.raises(UserError, match="has d_model=256, not 128; leave that out"):
        config_on_model(flags, MODEL, FOLDER)
