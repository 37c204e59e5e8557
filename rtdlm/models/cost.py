"""What a model costs: parameters by part and floating-point operations a token.

A product of an [a, b] matrix with a vector is 2ab operations; the backward pass costs twice the
forward pass. Attention reads, on average over a row of T tokens, T/2 keys in principle; the dense
kernel computes all T of them, and that is what is counted.
"""

from typing import NamedTuple

from rtdlm.config import AGIConfig


class ParameterCount(NamedTuple):
    """Parameters of a model."""

    total: int
    active: int
    """Those that one token uses; fewer than `total` with sparse experts."""
    embedding: int
    """In the embedding table and, if it is one of its own, the output table."""


def count_parameters(config: AGIConfig) -> ParameterCount:
    """Parameters by formula; a test holds it to the model's own shapes."""
    d, layers = config.d_model, config.num_layers
    heads, kv_heads, width = config.num_heads, config.kv_heads, config.head_dim
    tables = 1 if config.tie_embeddings else 2
    embedding = tables * config.vocab_size * d
    attention = 2 * d * heads * width + 2 * d * kv_heads * width
    norms = 2 * d + (2 * width if config.qk_norm else 0)
    expert, count = 3 * d * config.d_ff, config.experts.num_experts
    router = d * count
    fixed = embedding + layers * (attention + norms + router) + d
    return ParameterCount(
        total=fixed + layers * expert * max(count, 1),
        active=fixed + layers * expert * (config.experts.choices if count else 1),
        embedding=embedding,
    )


def forward_flops_per_token(config: AGIConfig, *, length: int) -> int:
    """Operations of the matrix products for one token in a row of `length`, forward."""
    count = count_parameters(config)
    norms = 2 * config.d_model + (2 * config.head_dim if config.qk_norm else 0)
    matrices = count.active - count.embedding - config.num_layers * norms - config.d_model
    output = config.vocab_size * config.d_model
    attention = 2 * config.num_layers * config.num_heads * config.head_dim * length
    return 2 * (matrices + output + attention)


def train_flops_per_token(config: AGIConfig) -> int:
    """Operations for one training token: forward, and backward at twice that.

    What `remat` and the loss recompute is not counted: MFU measures useful work.
    """
    return 3 * forward_flops_per_token(config, length=config.max_seq_len)
