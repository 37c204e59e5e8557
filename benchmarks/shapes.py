"""The models that are timed, and our config of each; the same architecture on both sides."""

from dataclasses import asdict
from typing import Any

from benchmarks.peer.shape import Shape
from rtdlm.config import AGIConfig

SMALL_GPT = Shape()
# Our default block at the small size; SwiGLU has three matrices, hence 2/3 of the width.
SMALL = Shape(architecture="llama", num_kv_heads=2, d_ff=384)
TINY = Shape(
    architecture="llama", vocab_size=8192, length=256, d_model=256, num_kv_heads=2, d_ff=1536
)
SMOKE = Shape("llama", length=16, d_model=16, num_layers=1, num_heads=2, num_kv_heads=1, d_ff=32)

_GPT = {
    "attention_type": "mha",
    "position_encoding": "learned",
    "norm": "layer",
    "feedforward": "gelu",
    "qk_norm": False,
    "tie_embeddings": True,
}


def our_config(shape: Shape, **overrides: Any) -> AGIConfig:
    """Our config of the same model; AdamW with the peer's settings unless overridden."""
    sizes = asdict(shape)
    sizes["max_seq_len"] = sizes.pop("length")
    kind = sizes.pop("architecture")
    if kind == "gpt":
        del sizes["num_kv_heads"]
    tree = {"optimizer": ADAMW, **sizes, **(_GPT if kind == "gpt" else {})}
    return AGIConfig.from_dict({**tree, **overrides})


ADAMW = {
    "name": "adamw",
    "learning_rate": 1e-3,
    "beta2": 0.99,
    "schedule": "cosine",
    "warmup_steps": 100,
}
