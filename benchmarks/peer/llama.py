"""RT-DLM's default architecture in PyTorch: RMSNorm, RoPE, grouped heads, SwiGLU, two tables.

The rotation is in the half-split convention (features i and i + E/2 of a head form a plane), query
and key heads are normalised before it, and query head h reads key-value head h // (H / K).
Projections that share an input are one matrix, as tuned PyTorch code has them.

Axes: B batch, T time, S key time, D model, H heads, K key-value heads, E head features, V
vocabulary, F hidden.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.peer.gpt import initialise
from benchmarks.peer.shape import Shape

EPSILON = 1e-6
ROPE_BASE = 10_000.0

Cache = Sequence[tuple[Tensor, Tensor]]
"""Keys and values `[B, K, S, E]` of every layer."""


class RMSNorm(nn.Module):
    """y = scale * x / sqrt(mean(x^2) + eps) over the last axis."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """`[..., D]` -> `[..., D]`, in float32 whatever the input."""
        return functional.rms_norm(x.float(), self.weight.shape, self.weight, EPSILON).type_as(x)


def rotate(x_BHTE: Tensor, cos_TE: Tensor, sin_TE: Tensor) -> Tensor:
    """Turns features i and i + E/2 against each other."""
    first, second = x_BHTE.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return (x_BHTE * cos_TE + turned * sin_TE).type_as(x_BHTE)


class Attention(nn.Module):
    """Causal attention with grouped key-value heads."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.width = shape.num_heads, shape.num_kv_heads, shape.head_dim
        rows = (self.heads + 2 * self.kv_heads) * self.width
        self.qkv = nn.Linear(shape.d_model, rows, bias=False)
        self.query_norm = RMSNorm(self.width)
        self.key_norm = RMSNorm(self.width)
        self.output = nn.Linear(self.heads * self.width, shape.d_model, bias=False)

    def forward(
        self,
        x_BTD: Tensor,
        cos_TE: Tensor,
        sin_TE: Tensor,
        cache: tuple[Tensor, Tensor] | None = None,
        start: int = 0,
    ) -> Tensor:
        """`[B, T, D]` -> `[B, T, D]`; with a cache, of tokens that begin at position `start`."""
        batch, length, _ = x_BTD.shape
        heads = self.qkv(x_BTD).view(batch, length, -1, self.width).transpose(1, 2)
        query, key, value = heads.split((self.heads, self.kv_heads, self.kv_heads), dim=1)
        query = rotate(self.query_norm(query), cos_TE, sin_TE)
        key = rotate(self.key_norm(key), cos_TE, sin_TE)
        if cache is not None:
            end = start + length
            for kept, new in zip(cache, (key, value), strict=True):
                kept[:, :, start:end] = new
            key, value = (kept[:, :, :end] for kept in cache)
        # One new token reads all there is; a whole prompt reads causally.
        read_BHTE = functional.scaled_dot_product_attention(
            query, key, value, is_causal=length > 1, enable_gqa=self.kv_heads < self.heads
        )
        return self.output(read_BHTE.transpose(1, 2).reshape(batch, length, -1))


class Block(nn.Module):
    """One pre-norm block."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(shape.d_model)
        self.attention = Attention(shape)
        self.feedforward_norm = RMSNorm(shape.d_model)
        self.gate_up = nn.Linear(shape.d_model, 2 * shape.d_ff, bias=False)
        self.down = nn.Linear(shape.d_ff, shape.d_model, bias=False)

    def forward(
        self,
        x_BTD: Tensor,
        cos_TE: Tensor,
        sin_TE: Tensor,
        cache: tuple[Tensor, Tensor] | None = None,
        start: int = 0,
    ) -> Tensor:
        """`[B, T, D]` -> `[B, T, D]`."""
        normed = self.attention_norm(x_BTD)
        x_BTD = x_BTD + self.attention(normed, cos_TE, sin_TE, cache, start)
        gate_BTF, up_BTF = self.gate_up(self.feedforward_norm(x_BTD)).chunk(2, dim=-1)
        return x_BTD + self.down(functional.silu(gate_BTF) * up_BTF)


class Llama(nn.Module):
    """Token ids to logits, or to the mean loss against labels."""

    cos_TE: Tensor
    sin_TE: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocab_size, shape.d_model)
        self.blocks = nn.ModuleList([Block(shape) for _ in range(shape.num_layers)])
        self.final_norm = RMSNorm(shape.d_model)
        self.head = nn.Linear(shape.d_model, shape.vocab_size, bias=False)
        plane = torch.arange(0, shape.head_dim, 2, dtype=torch.float32) / shape.head_dim
        angle_TR = torch.outer(torch.arange(shape.length).float(), ROPE_BASE**-plane)
        angle_TE = torch.cat((angle_TR, angle_TR), dim=-1)
        self.register_buffer("cos_TE", angle_TE.cos(), persistent=False)
        self.register_buffer("sin_TE", angle_TE.sin(), persistent=False)
        initialise(self, shape)

    def features(self, ids_BT: Tensor, cache: Cache | None = None, start: int = 0) -> Tensor:
        """`[B, T]` -> `[B, T, D]`, normalised; with a cache, of tokens from position `start` on."""
        x_BTD = self.embedding(ids_BT)
        end = start + ids_BT.shape[1]
        cos_TE, sin_TE = self.cos_TE[start:end], self.sin_TE[start:end]
        for layer, block in enumerate(self.blocks):
            x_BTD = block(x_BTD, cos_TE, sin_TE, None if cache is None else cache[layer], start)
        return self.final_norm(x_BTD)

    def forward(self, ids_BT: Tensor, labels_BT: Tensor) -> Tensor:
        """The mean negative log-likelihood of `labels_BT` [nats]."""
        logits_BTV = self.head(self.features(ids_BT))
        return functional.cross_entropy(logits_BTV.flatten(0, 1), labels_BT.flatten())

    def logits(self, ids_BT: Tensor) -> Tensor:
        """`[B, T, V]`."""
        return self.head(self.features(ids_BT))

    def next_logits(self, ids_BT: Tensor, cache: Cache | None = None, start: int = 0) -> Tensor:
        """`[B, V]`: of the token after the last one only, as generation needs them."""
        return self.head(self.features(ids_BT, cache, start)[:, -1])

    def empty_cache(self, batch: int) -> Cache:
        """Room for the keys and values of `batch` rows of the longest length."""
        shape = self.shape
        size = (batch, shape.num_kv_heads, shape.length, shape.head_dim)
        return [(torch.zeros(size), torch.zeros(size)) for _ in range(shape.num_layers)]
