"""Folders in Hugging Face form: what is refused and why, shards, formats; without transformers."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file

from rtdlm.config import AGIConfig, UserError
from rtdlm.config.build import build_config
from rtdlm.interop import foreign_config, read_pretrained, write_pretrained
from rtdlm.interop.hugging_face import stored_dtype
from rtdlm.models import TMSModel
from tests.models.small import random_params, small_config


def write_llama(folder: Path, **changes: Any) -> Path:
    """A Llama without transformers, with `changes` of its config.json."""
    config = small_config(qk_norm=False)
    write_pretrained(folder, config, random_params(TMSModel(config)))
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return folder


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model_type": "mamba"}, "holds a model of type 'mamba', which is not among those"),
        (
            {"model_type": "qwen3", "use_sliding_window": True, "sliding_window": 4},
            "sliding_window=4 in a qwen3 cannot be expressed",
        ),
        ({"hidden_act": "relu"}, "hidden_act='relu' cannot be expressed by AGIConfig"),
        ({"attention_bias": True}, "attention_bias=True cannot be expressed by AGIConfig"),
        ({"mlp_bias": True}, "mlp_bias=True cannot be expressed"),
        (
            {"rope_scaling": {"rope_type": "longrope", "factor": 2.0}},
            "rope_type='longrope' cannot be expressed",
        ),
        (
            {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 1},
            "num_experts_per_tok=1 cannot be expressed",
        ),
        ({"num_attention_heads": 0}, "has a field that is not what its family has there"),
        ({"hidden_size": "wide"}, "has a field that is not what its family has there"),
        ({"rope_scaling": 7}, "has a field that is not what its family has there"),
        ({"num_hidden_layers": 3}, "has no tensor 'model.layers.2.input_layernorm.weight'"),
        ({"num_hidden_layers": 1}, "tensors that its config does not explain"),
        ({"intermediate_size": 33}, "has shape (32, 16), expected (33, 16) by the config"),
    ],
)
def test_what_cannot_be_expressed_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError) as caught:
        read_pretrained(write_llama(tmp_path, **changes))
    assert sentence in str(caught.value)


def test_a_folder_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config.json cannot be read: No such file"):
        read_pretrained(tmp_path)
    folder = write_llama(tmp_path)
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match="config.json is not JSON"):
        read_pretrained(folder)
    write_llama(folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(UserError, match=r"model.safetensors cannot be read"):
        read_pretrained(folder)
    weights.unlink()
    with pytest.raises(UserError, match="is missing; the weights must be safetensors"):
        read_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UserError, match="has no field 'num_attention_heads'"):
        read_pretrained(folder)


@pytest.mark.parametrize(
    ("form", "sentence"),
    [
        ({"short_conv": 3}, "no Hugging Face family has short convolutions"),
        ({"memory": {"segment": 4}}, "no Hugging Face family has a memory of earlier segments"),
        ({"qk_norm": True, "biases": "qkv"}, "no Hugging Face family combines"),
        ({"feedforward": "relu2", "qk_norm": False}, "feedforward='relu2'"),
        ({"norm": "layer"}, "norm='layer'"),
        ({"position_encoding": "alibi", "qk_norm": False}, "position_encoding='alibi'"),
        (
            {"attention_type": "sliding", "attention": {"window": 4, "sinks": 2}, "qk_norm": False},
            "has attention sinks",
        ),
        *(
            ({"attention_type": kind}, f"has attention_type='{kind}'")
            for kind in ("sparse", "linear", "spiking")
        ),
        ({"attention_type": "delta", "num_kv_heads": None}, "has attention_type='delta'"),
        *(
            ({"experts": {"num_experts": 4, **given}, "qk_norm": False}, sentence)
            for given, sentence in (
                ({"top_k": 1}, "has a single expert a token"),
                ({"every": 2}, "has experts in some layers only"),
                ({"scores": "sigmoid"}, "has experts scored by sigmoids"),
                ({"temperature": 2.0}, "has a temperature of the router"),
                ({"shared": 1}, "has shared experts"),
                ({"bias_rate": 0.1}, "has a balancing bias"),
            )
        ),
    ],
)
def test_what_no_family_has_is_not_exported(
    tmp_path: Path, form: dict[str, Any], sentence: str
) -> None:
    config = small_config(**form)
    with pytest.raises(UserError) as caught:
        write_pretrained(tmp_path, config, {})
    assert sentence in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    advised = dict(item.split("=", 1) for item in advice(caught).split())
    tree = {option: yaml.safe_load(value) for option, value in advised.items()}
    changed = build_config(base=config, preset=None, overrides=tree)
    assert (changed == config) == (not advised), "what is advised is an option, and changes it"


def advice(caught: pytest.ExceptionInfo[UserError]) -> str:
    """The settings that a refusal advises."""
    return str(caught.value).partition(" --set ")[2]


def test_shards_and_other_formats_are_read(tmp_path: Path) -> None:
    """Tensors in two files with an index, and bfloat16, which is read exactly."""
    folder = write_llama(tmp_path / "whole")
    config, params, _ = read_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    split = tmp_path / "split"
    split.mkdir()
    names = sorted(tensors)
    where = {name: f"part-{place % 2}.safetensors" for place, name in enumerate(names)}
    for file in set(where.values()):
        save_file({n: tensors[n] for n in names if where[n] == file}, split / file)
    (split / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    (split / "config.json").write_bytes((folder / "config.json").read_bytes())
    again = read_pretrained(split)
    assert again.config == config
    jax.tree.map(np.testing.assert_array_equal, again.params, params)
    half = tmp_path / "half"
    write_pretrained(half, config, params, dtype="bfloat16")
    found = read_pretrained(half).params
    rounded = jax.tree.map(lambda x: np.asarray(jnp.asarray(x, jnp.bfloat16), np.float32), params)
    jax.tree.map(np.testing.assert_array_equal, found, rounded)
    assert (stored_dtype(split), stored_dtype(half)) == ("float32", "bfloat16")
    # What is no weight says nothing of the weights.
    file = half / "model.safetensors"
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(2, np.float32)}
    save_file(load_file(file) | extra, file)
    assert stored_dtype(half) == "bfloat16"
    # Of two formats, only float32 holds both.
    tensors = load_file(file)
    save_file({**tensors, names[0]: tensors[names[0]].astype(np.float16)}, file)
    assert stored_dtype(half) == "float32"


def test_a_preset_without_what_is_ours_alone_is_some_family() -> None:
    for name in ("tiny", "base"):
        config = AGIConfig.from_preset(name, short_conv=0, value_residual=False)
        assert foreign_config(config)[0].model_type == "qwen3"
        assert foreign_config(config.replace(qk_norm=False))[0].model_type == "llama"
