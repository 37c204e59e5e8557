"""Named model sizes. The dense parameter counts are held to 10 % of the names by a test.

Head size is 64 throughout; `d_ff`, key-value heads, vocabulary and tying make up the count.
"""

from typing import Any

RECIPE: dict[str, Any] = {"zero_init_outputs": True, "short_conv": 4, "value_residual": True}
"""What pays for its time (docs/evidence.md). Other programs read a model only without the last two:
`short_conv=0 value_residual=false`."""
_SIZES: dict[str, dict[str, Any]] = {
    # ~10M
    "tiny": {
        "vocab_size": 8192, "max_seq_len": 256, "d_model": 256, "num_heads": 4, "num_kv_heads": 2,
        "num_layers": 4, "d_ff": 1536, "batch_size": 8,
    },
    # ~50M
    "small": {
        "vocab_size": 32768, "max_seq_len": 512, "d_model": 512, "num_heads": 8, "num_kv_heads": 4,
        "num_layers": 6, "d_ff": 3072, "tie_embeddings": True, "batch_size": 16,
    },
    # ~125M
    "base": {
        "vocab_size": 32768, "max_seq_len": 1024, "d_model": 768, "num_heads": 12,
        "num_kv_heads": 4, "num_layers": 12, "d_ff": 3072, "tie_embeddings": True,
        "batch_size": 64,
    },
    # ~350M
    "large": {
        "vocab_size": 32768, "max_seq_len": 2048, "d_model": 1024, "num_heads": 16,
        "num_kv_heads": 4, "num_layers": 24, "d_ff": 3456, "tie_embeddings": True,
        "batch_size": 128, "remat": "dots",
    },
    # ~1.3B
    "xlarge": {
        "vocab_size": 32768, "max_seq_len": 2048, "d_model": 2048, "num_heads": 32,
        "num_kv_heads": 8, "num_layers": 32, "d_ff": 4608, "tie_embeddings": True,
        "batch_size": 256, "remat": "full",
    },
    # ~7B
    "xxlarge": {
        "vocab_size": 32768, "max_seq_len": 4096, "d_model": 4096, "num_heads": 64,
        "num_kv_heads": 8, "num_layers": 48, "d_ff": 8192, "batch_size": 512, "remat": "full",
    },
}  # fmt: skip
PRESETS = {name: {**RECIPE, **size} for name, size in _SIZES.items()}
