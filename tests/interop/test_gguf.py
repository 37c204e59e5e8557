"""GGUF files, read back by the library that llama.cpp keeps for it: tensors, fields, refusals.

What llama.cpp makes of them was compared by hand, see docs/interop.md.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rtdlm.config import UserError
from rtdlm.data import byte_tokenizer, train_bpe
from rtdlm.data.tokenizer import Tokenizer
from rtdlm.models import TMSModel
from tests.interop import golden
from tests.models.small import random_params, small_config

gguf = pytest.importorskip("gguf", reason="the files are written with gguf")

CASES = {
    "llama 2": "llama", "llama 3": "llama", "llama, linear": "llama",
    "llama, mqa and wide heads": "llama", "mistral, no window": "llama", "mixtral": "llama",
    "qwen2": "qwen2", "qwen3": "qwen3", "gemma 2": "gemma2", "gpt-2": "gpt2",
}  # fmt: skip
"""Case -> llama.cpp's architecture."""
# The ends of Hugging Face's names, and llama.cpp's name for each.
NAMES = {
    "embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight", "self_attn.q_proj.bias": "attn_q.bias",
    "self_attn.k_proj.weight": "attn_k.weight", "self_attn.k_proj.bias": "attn_k.bias",
    "self_attn.v_proj.weight": "attn_v.weight", "self_attn.v_proj.bias": "attn_v.bias",
    "self_attn.o_proj.weight": "attn_output.weight",
    "self_attn.q_norm.weight": "attn_q_norm.weight",
    "self_attn.k_norm.weight": "attn_k_norm.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight", "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
    "block_sparse_moe.gate.weight": "ffn_gate_inp.weight", "w1.weight": "ffn_gate_exps.weight",
    "w2.weight": "ffn_down_exps.weight", "w3.weight": "ffn_up_exps.weight",
    "wte.weight": "token_embd.weight", "wpe.weight": "position_embd.weight",
    "ln_f.weight": "output_norm.weight", "ln_f.bias": "output_norm.bias",
    "ln_1.weight": "attn_norm.weight", "ln_1.bias": "attn_norm.bias",
    "ln_2.weight": "ffn_norm.weight", "ln_2.bias": "ffn_norm.bias",
    "attn.c_attn.weight": "attn_qkv.weight", "attn.c_attn.bias": "attn_qkv.bias",
    "attn.c_proj.weight": "attn_output.weight", "attn.c_proj.bias": "attn_output.bias",
    "mlp.c_fc.weight": "ffn_up.weight", "mlp.c_fc.bias": "ffn_up.bias",
    "mlp.c_proj.weight": "ffn_down.weight", "mlp.c_proj.bias": "ffn_down.bias",
}  # fmt: skip
ROTATED = ("self_attn.q_proj.weight", "self_attn.k_proj.weight")
GEMMA = {
    "post_attention_layernorm.weight": "post_attention_norm.weight",
    "pre_feedforward_layernorm.weight": "ffn_norm.weight",
    "post_feedforward_layernorm.weight": "post_ffw_norm.weight",
}


def expected(case: str) -> dict[str, np.ndarray]:
    """Every tensor of llama.cpp's file, from Hugging Face's."""
    tree, theirs, _ = golden.read()[case]
    architecture = CASES[case]
    names = NAMES | (GEMMA if architecture == "gemma2" else {})
    found: dict[str, Any] = {}
    for name, tensor in theirs.items():
        (end,) = {end for end in names if name == end or name.endswith(f".{end}")}
        layer = re.search(r"\.(?:layers|h)\.(\d+)\.", name)
        own = f"blk.{layer[1]}.{names[end]}" if layer else names[end]
        if architecture == "llama" and end in ROTATED:
            heads = tree["num_attention_heads" if ".q_" in end else "num_key_value_heads"]
            half = len(tensor) // heads // 2
            # Of each head the rows 0, half, 1, half + 1, ...
            rows = [
                head * 2 * half + place + side * half
                for head in range(heads) for place in range(half) for side in (0, 1)
            ]  # fmt: skip
            tensor = tensor[rows]
        if architecture == "gemma2" and "norm" in end:
            tensor = tensor + 1
        if architecture == "gpt2" and "c_" in end and end.endswith("weight"):
            tensor = tensor.T
        if expert := re.search(r"\.experts\.(\d+)\.", name):
            found.setdefault(own, {})[int(expert[1])] = tensor
        else:
            found[own] = tensor
    for name, value in found.items():
        if isinstance(value, dict):
            found[name] = np.stack([value[expert] for expert in sorted(value)])
    return found


def tensors_of(file: Path) -> dict[str, np.ndarray]:
    return {tensor.name: np.array(tensor.data) for tensor in gguf.GGUFReader(file).tensors}


def field(file: Path, name: str) -> Any:
    found = gguf.GGUFReader(file).get_field(name)
    return None if found is None else found.contents()


def written(tmp_path: Path, case: str, **changes: Any) -> Path:
    from rtdlm.interop.gguf_file import write_gguf

    config, params, _ = golden.pretrained(case)
    # The families' models have 48 tokens: too few for bytes, so that their tables grow by zeros.
    config = replace(config, vocab_size=300, **changes)
    params = {module: dict(leaves) for module, leaves in params.items()}
    for table in {"embedding", "output"} & params["decoder"].keys():
        params["decoder"][table] = np.pad(params["decoder"][table], ((0, 252), (0, 0)))
    file = tmp_path / "model.gguf"
    write_gguf(file, config, params, tokenizer=byte_tokenizer())
    return file


@pytest.mark.parametrize("case", CASES)
def test_every_tensor_is_that_of_the_family(case: str, tmp_path: Path) -> None:
    changes = {}
    if case == "gemma 2":
        # With the scale of the stored one llama.cpp would compute otherwise.
        config = golden.pretrained(case)[0]
        changes["attention"] = replace(config.attention, scale=config.head_dim**-0.5)
    file = written(tmp_path, case, **changes)
    found, wanted = tensors_of(file), expected(case)
    assert found.keys() - wanted.keys() == ({"rope_freqs.weight"} if case == "llama 3" else set())
    assert not wanted.keys() - found.keys()
    for name, tensor in wanted.items():
        table = name in ("token_embd.weight", "output.weight")
        held = found[name][: len(tensor)] if table else found[name]
        np.testing.assert_array_equal(held, tensor, err_msg=name)
    architecture = CASES[case]
    assert field(file, "general.architecture") == architecture
    assert field(file, f"{architecture}.block_count") == 3
    assert field(file, f"{architecture}.attention.head_count") == 4
    tokens = field(file, "tokenizer.ggml.tokens")
    assert len(tokens) == len(found["token_embd.weight"]) == 300
    assert (tokens[65], tokens[32], tokens[256]) == ("A", "\u0120", "<|document|>")
    linear = (field(file, "llama.rope.scaling.type"), field(file, "llama.rope.scaling.factor"))
    assert linear == (("linear", 2.0) if case == "llama, linear" else (None, None))


def test_what_llama_cpp_keeps_in_another_way(tmp_path: Path) -> None:
    theirs = golden.read()["llama 3"][1]
    found = tensors_of(written(tmp_path, "llama 3"))
    query = theirs["model.layers.0.self_attn.q_proj.weight"]
    # Heads of four features: planes (0, 2) and (1, 3) side by side.
    order = [head * 4 + place for head in range(4) for place in (0, 2, 1, 3)]
    np.testing.assert_array_equal(found["blk.0.attn_q.weight"], query[order])
    key = theirs["model.layers.0.self_attn.k_proj.weight"]
    np.testing.assert_array_equal(found["blk.0.attn_k.weight"], key[order[:8]])
    value = theirs["model.layers.0.self_attn.v_proj.weight"]
    np.testing.assert_array_equal(found["blk.0.attn_v.weight"], value)
    # Llama 3's scaling: plane 0 turns 2.5 times in 16 tokens, between 1 and 4; plane 1 not once.
    kept = (16 / (2 * np.pi) - 1) / 3
    factors = [1 / ((1 - kept) / 4 + kept), 4.0]
    np.testing.assert_allclose(found["rope_freqs.weight"], factors, rtol=1e-6)
    sparse = tensors_of(written(tmp_path, "mixtral"))["blk.1.ffn_down_exps.weight"]
    parts = golden.read()["mixtral"][1]
    for expert in range(4):
        name = f"model.layers.1.block_sparse_moe.experts.{expert}.w2.weight"
        np.testing.assert_array_equal(sparse[expert], parts[name])
    turned = tensors_of(written(tmp_path, "gpt-2"))["blk.0.ffn_up.weight"]
    conv = golden.read()["gpt-2"][1]["transformer.h.0.mlp.c_fc.weight"]
    np.testing.assert_array_equal(turned, conv.T)


@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        ("mistral", "a window of 5 in a mistral model"),
        ("llama, yarn", "rope.scaling='yarn'"),
        ("gemma 2", r"attention.scale=0.333.* with heads of 6 features"),
    ],
)
def test_what_llama_cpp_computes_otherwise_is_refused(
    case: str, sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=f"llama.cpp does not compute {sentence}"):
        written(tmp_path, case)
    assert not list(tmp_path.iterdir())


def test_merges_formats_and_a_foreign_tokenizer(tmp_path: Path) -> None:
    from rtdlm.interop.gguf_file import write_gguf

    tokenizer = train_bpe(["the cat and the hat"] * 9, vocab_size=262)
    config = small_config(vocab_size=264)
    params = random_params(TMSModel(config))
    sizes = {}
    for dtype in ("float32", "float16", "bfloat16"):
        file = tmp_path / f"{dtype}.gguf"
        write_gguf(file, config, params, tokenizer=tokenizer, dtype=dtype)
        sizes[dtype] = sum(tensor.n_bytes for tensor in gguf.GGUFReader(file).tensors)
    assert field(file, "tokenizer.ggml.merges")[0] == "a t"
    assert field(file, "tokenizer.ggml.token_type")[:2] == [3, 1]
    assert field(file, "tokenizer.ggml.token_type")[-2:] == [5, 5]
    assert 1.9 < sizes["float32"] / sizes["float16"] < 2.0
    assert sizes["float16"] == sizes["bfloat16"]
    foreign = Tokenizer(tokenizer.definition.replace(b"\\\\p{N}{1,3}", b"\\\\p{N}{1,2}"))
    with pytest.raises(UserError, match="only the tokenizers that are made here"):
        write_gguf(tmp_path / "no.gguf", config, params, tokenizer=foreign)
