"""GGUF files, read back by the library that llama.cpp keeps for it: tensors, fields, refusals.

What llama.cpp makes of them was compared by hand, see docs/interop.md.
"""

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

# Case -> llama.cpp's architecture, and a few of its tensors by the name of the foreign one.
CASES = {
    "llama 3": ("llama", {"output_norm.weight": "model.norm.weight"}),
    "mixtral": (
        "llama", {"blk.1.ffn_gate_inp.weight": "model.layers.1.block_sparse_moe.gate.weight"},
    ),
    "qwen2": ("qwen2", {"blk.2.attn_q.bias": "model.layers.2.self_attn.q_proj.bias"}),
    "qwen3": (
        "qwen3",
        {
            "blk.0.attn_q.weight": "model.layers.0.self_attn.q_proj.weight",
            "blk.2.attn_k_norm.weight": "model.layers.2.self_attn.k_norm.weight",
            "blk.1.ffn_down.weight": "model.layers.1.mlp.down_proj.weight",
            "token_embd.weight": "model.embed_tokens.weight",
            "output.weight": "lm_head.weight",
        },
    ),
    "gpt-2": (
        "gpt2",
        {
            "blk.0.attn_qkv.bias": "transformer.h.0.attn.c_attn.bias",
            "position_embd.weight": "transformer.wpe.weight",
        },
    ),
}  # fmt: skip


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
def test_tensors_are_those_of_the_family(case: str, tmp_path: Path) -> None:
    architecture, names = CASES[case]
    file = written(tmp_path, case)
    found = tensors_of(file)
    theirs = golden.read()[case][1]
    for name, foreign in names.items():
        expected = theirs[foreign]
        np.testing.assert_array_equal(found[name][: len(expected)], expected, err_msg=name)
    assert field(file, "general.architecture") == architecture
    assert field(file, f"{architecture}.block_count") == 3
    assert field(file, f"{architecture}.attention.head_count") == 4
    tokens = field(file, "tokenizer.ggml.tokens")
    assert len(tokens) == len(found["token_embd.weight"]) == 300
    assert (tokens[65], tokens[32], tokens[256]) == ("A", "\u0120", "<|document|>")


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
