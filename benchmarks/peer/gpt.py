"""The standard small GPT (GPT-2's block without biases): learned positions, LayerNorm, GELU.

    x = E[ids] + P[0..T)
    x = x + W_o attention(norm(x));  x = x + W_2 gelu(W_1 norm(x))        a layer
    logits = norm(x) E^T

Weights are N(0, 0.02), those that write into the residual stream smaller by sqrt(2 layers).
Axes: B batch, T time, D model, H heads, E head features, V vocabulary.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.peer.shape import Shape

EPSILON = 1e-5


class Attention(nn.Module):
    """Causal multi-head attention with one projection for queries, keys and values."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.num_heads
        self.qkv = nn.Linear(shape.d_model, 3 * shape.d_model, bias=False)
        self.output = nn.Linear(shape.d_model, shape.d_model, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """`[B, T, D]` -> `[B, T, D]`."""
        batch, length, width = x_BTD.shape
        parts = self.qkv(x_BTD).split(width, dim=2)
        query, key, value = (
            part.view(batch, length, self.heads, -1).transpose(1, 2) for part in parts
        )
        read_BHTE = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.output(read_BHTE.transpose(1, 2).reshape(batch, length, width))


class Block(nn.Module):
    """One pre-norm block."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(shape.d_model, eps=EPSILON, bias=False)
        self.attention = Attention(shape)
        self.feedforward_norm = nn.LayerNorm(shape.d_model, eps=EPSILON, bias=False)
        self.up = nn.Linear(shape.d_model, shape.d_ff, bias=False)
        self.down = nn.Linear(shape.d_ff, shape.d_model, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """`[B, T, D]` -> `[B, T, D]`."""
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD))
        return x_BTD + self.down(functional.gelu(self.up(self.feedforward_norm(x_BTD))))


class GPT(nn.Module):
    """Token ids to logits, or to the mean loss against labels."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocab_size, shape.d_model)
        self.position = nn.Embedding(shape.length, shape.d_model)
        self.blocks = nn.ModuleList([Block(shape) for _ in range(shape.num_layers)])
        self.final_norm = nn.LayerNorm(shape.d_model, eps=EPSILON, bias=False)
        self.head = nn.Linear(shape.d_model, shape.vocab_size, bias=False)
        self.head.weight = self.embedding.weight
        initialise(self, shape)

    def features(self, ids_BT: Tensor) -> Tensor:
        """`[B, T]` -> `[B, T, D]`, normalised."""
        positions_T = torch.arange(ids_BT.shape[1], device=ids_BT.device)
        x_BTD = self.embedding(ids_BT) + self.position(positions_T)
        for block in self.blocks:
            x_BTD = block(x_BTD)
        return self.final_norm(x_BTD)

    def forward(self, ids_BT: Tensor, labels_BT: Tensor) -> Tensor:
        """The mean negative log-likelihood of `labels_BT` [nats]."""
        logits_BTV = self.head(self.features(ids_BT))
        return functional.cross_entropy(logits_BTV.flatten(0, 1), labels_BT.flatten())

    def logits(self, ids_BT: Tensor) -> Tensor:
        """`[B, T, V]`."""
        return self.head(self.features(ids_BT))

    def next_logits(self, ids_BT: Tensor) -> Tensor:
        """`[B, V]`: of the token after the last one only, as generation needs them."""
        return self.head(self.features(ids_BT)[:, -1])


def initialise(model: nn.Module, shape: Shape) -> None:
    """N(0, 0.02) for all matrices; N(0, 0.02 / sqrt(2 layers)) for those that write."""
    for name, weight in model.named_parameters():
        if weight.dim() < 2:
            continue
        writes = name.endswith(("output.weight", "down.weight"))
        deviation = 0.02 / (2 * shape.num_layers) ** 0.5 if writes else 0.02
        nn.init.normal_(weight, mean=0.0, std=deviation)
