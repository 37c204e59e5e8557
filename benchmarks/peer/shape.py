"""The sizes of a peer model; knows neither PyTorch nor JAX."""

from dataclasses import dataclass
from typing import Literal

Architecture = Literal["gpt", "llama"]


@dataclass(frozen=True)
class Shape:
    """One model, the same on both sides of a benchmark."""

    architecture: Architecture = "gpt"
    """`gpt`: learned positions, LayerNorm, GELU, tied tables; `llama`: rotary positions, RMSNorm,
    SwiGLU, grouped heads with normalised queries and keys, tables of their own."""
    vocab_size: int = 65
    length: int = 64
    """Longest row [tokens]."""
    d_model: int = 128
    num_layers: int = 4
    num_heads: int = 4
    num_kv_heads: int = 4
    d_ff: int = 512

    @property
    def head_dim(self) -> int:
        """Features of a head."""
        return self.d_model // self.num_heads
