"""Our recipes for the time-to-loss benchmark: what a class allows, and what was found to be fast.

Everything is an option of `AGIConfig`, so that a run can be repeated with `rtdlm.train`. The
recipes were chosen on tiny Shakespeare, mostly with seed 0, which the benchmark runs too (the
peer's grid has a seed of its own); what their ingredients are worth is measured by
`python -m studies recipe`.
"""

from typing import Any

Config = dict[str, Any]

_OPTIMIZER: Config = {"name": "muon", "schedule": "linear", "warmup_steps": 0, "weight_decay": 0.0}
_LOW: Config = {"compute": "bfloat16"}
_TABLES: Config = {"orders": [2, 3, 4], "buckets": 8192}

FREE: Config = {
    "precision": _LOW,
    # Most of what the target takes is in the last four characters: tables, and one small layer.
    "ngram": _TABLES,
    "d_model": 64, "num_layers": 1, "num_heads": 1, "attention_type": "mha", "d_ff": 64,
    "feedforward": "relu2", "zero_init_outputs": True,
    "max_seq_len": 32, "batch_size": 64, "num_steps": 55,
    "optimizer": {**_OPTIMIZER, "learning_rate": 0.03, "adam_learning_rate": 0.02},
}  # fmt: skip

SAME_CLASS: Config = {
    "precision": _LOW,
    "d_model": 64, "num_layers": 2, "num_heads": 2, "attention_type": "mha", "d_ff": 176,
    "feedforward": "swiglu", "zero_init_outputs": True, "embedding_norm": True,
    "residual_gates": True, "value_residual": True,
    "short_conv": 4, "short_conv_places": ["input", "attention", "feedforward"],
    "max_seq_len": 32, "batch_size": 32, "num_steps": 180,
    "optimizer": {**_OPTIMIZER, "learning_rate": 0.05, "adam_learning_rate": 0.04},
}  # fmt: skip

LONG: Config = {
    "precision": _LOW,
    "ngram": _TABLES,
    "d_model": 96, "num_layers": 2, "num_heads": 2, "attention_type": "mha", "d_ff": 384,
    "feedforward": "relu2", "zero_init_outputs": True,
    "short_conv": 4, "short_conv_places": ["input", "feedforward"],
    "max_seq_len": 64, "batch_size": 32, "num_steps": 720,
    "optimizer": {**_OPTIMIZER, "learning_rate": 0.04, "adam_learning_rate": 0.02},
}  # fmt: skip
