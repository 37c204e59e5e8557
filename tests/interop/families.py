"""Small random models of every family, as `transformers` makes and runs them."""

from typing import Any

SIZES: dict[str, Any] = {
    "vocab_size": 48, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 24, "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5, "pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 16,
}  # fmt: skip
YARN_ROPE = {
    "rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama 2": ("Llama", {"num_key_value_heads": 4}),
    "llama 3": ("Llama", {"rope_parameters": LLAMA3_ROPE, "tie_word_embeddings": True}),
    "llama, yarn": ("Llama", {"rope_parameters": YARN_ROPE}),
    "llama, linear": ("Llama", {"rope_parameters": LINEAR_ROPE}),
    "llama, mqa and wide heads": ("Llama", {"num_key_value_heads": 1, "head_dim": 6}),
    "mistral": ("Mistral", {"sliding_window": 5}),
    "mistral, no window": ("Mistral", {"sliding_window": None}),
    "mixtral": (
        "Mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
    ),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {"head_dim": 8}),
    "gemma 2": (
        "Gemma2",
        {
            "head_dim": 6, "query_pre_attn_scalar": 9, "sliding_window": 5,
            "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0,
        },
    ),
    "gpt-2": ("GPT2", {}),
}  # fmt: skip
GPT2_SIZES: dict[str, Any] = {
    "vocab_size": 48, "n_positions": 64, "n_embd": 16, "n_layer": 3, "n_head": 4,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def make(case: str) -> Any:
    """The model of `transformers`, with weights large enough for every part to matter."""
    import torch
    import transformers

    name, fields = CASES[case]
    sizes = GPT2_SIZES if name == "GPT2" else SIZES
    config = getattr(transformers, f"{name}Config")(**sizes | fields)
    config._attn_implementation = "eager"
    kind = "GPT2LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM"
    torch.manual_seed(0)
    model = getattr(transformers, kind)(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight + 0.2 * torch.randn_like(weight))
    return model
