"""A model as one GGUF file, which llama.cpp and what builds on it read.

Tensors are those of the Hugging Face family under GGUF's names. For Llama and what shares its
architecture there, rows of queries and keys are put in another order: llama.cpp turns features 2i
and 2i + 1 of a head, where we turn i and i + E/2. Gemma's centred norms get their one added, the
matrices of GPT-2 are turned to [outputs, inputs], and the experts of a layer are one tensor.

What llama.cpp would compute otherwise is refused: a window where its architecture has none, scores
scaled by anything but the head's width, YaRN, an exact GELU in GPT-2.

Axes: H heads, E head features, D model.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from rtdlm.config import AGIConfig, UserError
from rtdlm.data import Tokenizer, train_bpe
from rtdlm.disk import make_directory, writing
from rtdlm.interop.family import Family
from rtdlm.interop.hugging_face import foreign_config
from rtdlm.interop.slots import Arrays, export_tensors
from rtdlm.models.block import DEFAULT_ROPE_BASE
from rtdlm.models.norms import LAYER_EPSILON, RMS_EPSILON
from rtdlm.models.tms import Params
from rtdlm.modules.attention.rope_scaling import scaled_planes

ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA, "mistral": gguf.MODEL_ARCH.LLAMA,
    "mixtral": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3, "gemma2": gguf.MODEL_ARCH.GEMMA2,
    "gpt2": gguf.MODEL_ARCH.GPT2,
}  # fmt: skip
FORMATS = {
    "float32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "float16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "bfloat16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
}
# Our rule for cutting text before merging, by the name that llama.cpp has for the same one.
PRE_TOKENIZER = "dbrx"
# llama.cpp asks for merges; this pair's letters stand for no byte, so that it never occurs.
NO_MERGE = "\u0250 \u0251"


def write_gguf(
    path: str | Path,
    config: AGIConfig,
    params: Params,
    *,
    tokenizer: Tokenizer,
    dtype: str = "float32",
) -> Family:
    """Writes the model to the file `path`; vectors stay float32. Returns its family.

    Raises:
        UserError: no family can express the model, llama.cpp computes it otherwise, or the
            tokenizer is not one of ours.
        StorageError: the disk refused; what was at `path` is still there.
    """
    family, _ = foreign_config(config)
    _require_same(config, family)
    arch = ARCHITECTURES[family.model_type]
    vocabulary = _vocabulary(config, tokenizer)
    tensors = gguf_tensors(config, family, params)
    file = Path(path)
    make_directory(file.parent)
    temporary = file.with_name(f".{file.name}.writing")
    writer = gguf.GGUFWriter(str(temporary), gguf.MODEL_ARCH_NAMES[arch])
    kind, file_type = FORMATS[dtype]
    _describe(writer, config, arch)
    writer.add_file_type(file_type)
    _add_tokenizer(writer, vocabulary, tokenizer)
    for name, tensor in tensors.items():
        own = kind if tensor.ndim > 1 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quants.quantize(tensor, own), raw_dtype=own)
    with writing(file):
        try:
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
            temporary.replace(file)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    return family


def gguf_tensors(config: AGIConfig, family: Family, params: Params) -> Arrays:
    """All tensors by GGUF's names, float32."""
    arch = ARCHITECTURES[family.model_type]
    names = gguf.get_tensor_name_map(arch, config.num_layers)
    found: Arrays = {}
    for theirs, tensor in _stacked(export_tensors(family.slots(config), params)).items():
        stem, _, ending = theirs.rpartition(".")
        name = names.get_name(stem)
        assert name is not None, theirs
        if arch == gguf.MODEL_ARCH.LLAMA and "q_proj" in stem:
            tensor = _interleaved(tensor, config.num_heads)
        if arch == gguf.MODEL_ARCH.LLAMA and "k_proj" in stem:
            tensor = _interleaved(tensor, config.kv_heads)
        if arch == gguf.MODEL_ARCH.GEMMA2 and "norm" in stem:
            tensor = tensor + 1
        if arch == gguf.MODEL_ARCH.GPT2 and ".h." in stem and tensor.ndim > 1:
            tensor = tensor.T
        found[f"{name}.{ending}"] = np.ascontiguousarray(tensor, np.float32)
    if config.rope.scaling == "llama3":
        plain, scaled = (_frequencies(config, scaled=scaled) for scaled in (False, True))
        found["rope_freqs.weight"] = (plain / scaled).astype(np.float32)
    return found


def _stacked(tensors: Mapping[str, np.ndarray]) -> Arrays:
    """Experts of a layer as one tensor, in their order."""
    found: Arrays = {}
    experts: dict[str, list[np.ndarray]] = {}
    for name, tensor in tensors.items():
        head, sparse, tail = name.partition(".experts.")
        if sparse:
            experts.setdefault(f"{head}.experts.{tail.partition('.')[2]}", []).append(tensor)
        else:
            found[name] = tensor
    return found | {name: np.stack(parts) for name, parts in experts.items()}


def _interleaved(w: np.ndarray, heads: int) -> np.ndarray:
    """Rows of each head: 0, E/2, 1, E/2 + 1, ..."""
    shape = (heads, 2, w.shape[0] // heads // 2, w.shape[1])
    return w.reshape(shape).swapaxes(1, 2).reshape(w.shape)


def _frequencies(config: AGIConfig, *, scaled: bool) -> np.ndarray:
    rope = config.rope if scaled else type(config.rope)()
    base = config.rope_base or DEFAULT_ROPE_BASE
    return scaled_planes(rope, head_dim=config.head_dim, base=base).frequency_R


def _describe(writer: gguf.GGUFWriter, config: AGIConfig, arch: gguf.MODEL_ARCH) -> None:
    """The fields that llama.cpp builds the model from."""
    writer.add_context_length(config.max_seq_len)
    writer.add_embedding_length(config.d_model)
    writer.add_block_count(config.num_layers)
    writer.add_feed_forward_length(config.d_ff)
    writer.add_head_count(config.num_heads)
    writer.add_vocab_size(config.vocab_size)
    given = config.norm_epsilon
    if arch == gguf.MODEL_ARCH.GPT2:
        writer.add_layer_norm_eps(LAYER_EPSILON if given is None else given)
        return
    writer.add_layer_norm_rms_eps(RMS_EPSILON if given is None else given)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_base or DEFAULT_ROPE_BASE)
    if config.rope.scaling == "linear":
        assert config.rope.factor is not None
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(config.rope.factor)
    if config.experts.num_experts:
        writer.add_expert_count(config.experts.num_experts)
        writer.add_expert_used_count(config.experts.choices)
    if arch == gguf.MODEL_ARCH.GEMMA2:
        writer.add_sliding_window(config.attention.reach)
        if config.attention.soft_cap is not None:
            writer.add_attn_logit_softcapping(config.attention.soft_cap)
        if config.logit_soft_cap is not None:
            writer.add_final_logit_softcapping(config.logit_soft_cap)


def _require_same(config: AGIConfig, family: Family) -> None:
    """Raises UserError for what llama.cpp computes in another way."""
    arch, attention = ARCHITECTURES[family.model_type], config.attention
    gemma = arch == gguf.MODEL_ARCH.GEMMA2
    slides = config.attention_type == "sliding" and attention.reach < config.max_seq_len
    caps = attention.soft_cap is not None and config.logit_soft_cap is not None
    scaling = config.rope.scaling
    reasons = {
        f"a window of {attention.reach} in a {family.model_type} model": slides and not gemma,
        "a Gemma 2 without both soft caps": gemma and not caps,
        f"attention.scale={attention.scale} with heads of {config.head_dim} features": (
            attention.scale is not None and attention.scale != config.head_dim**-0.5
        ),
        "rope.scaling='yarn'": scaling == "yarn",
        f"rope.scaling={scaling!r} in a {family.model_type} model": (
            scaling == "llama3" and arch != gguf.MODEL_ARCH.LLAMA
        ),
        "the exact GELU": arch == gguf.MODEL_ARCH.GPT2 and config.feedforward == "gelu",
    }
    found = [reason for reason, holds in reasons.items() if holds]
    if found:
        raise UserError(
            f"llama.cpp does not compute {' or '.join(found)} as we do, so that the GGUF "
            "file would be another model; export with --to hf"
        )


def _vocabulary(config: AGIConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """Tokens by id, filled up to the model's table, and merges.

    Raises:
        UserError: the tokenizer cuts or merges text in a way that has no name in GGUF.
    """
    tree = json.loads(tokenizer.definition)
    kind, cut = tree["model"], tree["pre_tokenizer"]
    ours = json.loads(train_bpe([], vocab_size=257).definition)
    plain = not kind.get("merges") and cut is not None and cut.get("type") == "ByteLevel"
    if kind.get("type") != "BPE" or not (plain or cut == ours["pre_tokenizer"]):
        raise UserError(
            "only the tokenizers that are made here (byte and bpe) have a form in GGUF; export "
            "with --to hf and convert the folder with llama.cpp's own converter"
        )
    tokens = {place: token for token, place in kind["vocab"].items()}
    tokens |= {item["id"]: item["content"] for item in tree["added_tokens"]}
    normal, control, unused = (
        int(gguf.TokenType[name]) for name in ("NORMAL", "CONTROL", "UNUSED")
    )
    special = {item["id"] for item in tree["added_tokens"]} | {tokenizer.document_id}
    every = range(config.vocab_size)
    pairs = [item if isinstance(item, str) else " ".join(item) for item in kind["merges"]]
    return {
        "tokens": [tokens.get(place, f"<|unused {place}|>") for place in every],
        "types": [
            unused if place not in tokens else control if place in special else normal
            for place in every
        ],
        "merges": pairs or [NO_MERGE],
    }


def _add_tokenizer(
    writer: gguf.GGUFWriter, vocabulary: Mapping[str, Any], tokenizer: Tokenizer
) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE_TOKENIZER)
    writer.add_token_list(vocabulary["tokens"])
    writer.add_token_types(vocabulary["types"])
    writer.add_token_merges(vocabulary["merges"])
    # A prompt is a document: it starts with the document token, which also ends it.
    writer.add_bos_token_id(int(tokenizer.prompt("")[0]))
    writer.add_eos_token_id(tokenizer.end_ids[0])
    writer.add_add_bos_token(True)
