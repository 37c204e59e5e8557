"""What a model costs: parameters by part and floating-point operations a token.

A product of an [a, b] matrix with a vector is 2ab operations, a convolution of width w over a
features 2wa; the backward pass costs twice the forward pass. Looking a row up costs none, and a sum
of k rows of width d by weights 2kd.
Attention reads, on average over a row of T tokens, T/2 keys in principle; what is counted is all
that the kernel computes: T of them if it is dense, about window + 128 if it slides.
"""

from math import prod
from typing import NamedTuple

from rtdlm.config import AGIConfig
from rtdlm.models.called_cost import called_products, called_vectors, products_of_calls
from rtdlm.models.convs import conv_features
from rtdlm.models.core_cost import core_once, core_products, core_vectors
from rtdlm.models.graph_cost import graph_products, graph_reads, graph_vectors
from rtdlm.models.knowledge_cost import (
    knowledge_products,
    knowledge_reads,
    knowledge_rows,
    knowledge_vectors,
)
from rtdlm.models.layers import LayerPlan, layer_plans
from rtdlm.models.memory_cost import (
    memory_once,
    memory_products,
    memory_reads,
    memory_vectors,
    task_products,
    task_vectors,
    task_writes,
)
from rtdlm.models.quantum_cost import quantum_products, quantum_reads, quantum_vectors
from rtdlm.modules.attention import KINDS
from rtdlm.modules.attention.sparse import NUM_BRANCHES
from rtdlm.modules.depths.router import NARROWER

GATED = ("swiglu", "geglu")
"""Feed-forward layers of three matrices."""


class ParameterCount(NamedTuple):
    """Parameters of a model."""

    total: int
    active: int
    """Those that one token uses; fewer than `total` with sparse experts or a parametric memory,
    of whose tables only the rows that are read count."""
    embedding: int
    """In tables of which a token reads rows and, if it is one of its own, the output table."""


def count_parameters(config: AGIConfig) -> ParameterCount:
    """Parameters by formula; a test holds it to the model's own shapes."""
    known, read = _known(config)
    embedding, vectors = _tables(config), _vectors(config)
    return ParameterCount(
        total=embedding + known + vectors + _products(config, experts=config.experts.num_experts),
        active=embedding + read + vectors + _products(config, experts=config.experts.choices),
        embedding=embedding + known,
    )


def forward_flops_per_token(config: AGIConfig, *, length: int) -> int:
    """Operations of the matrix products for one token in a row of `length`, forward.

    A layer that works on a share of the tokens counts with that share, as in training; memory
    is counted with its stores full, and attention within a segment. A controller's core counts
    with all of its steps, of which each but the first calls all that there is.
    """
    output = config.vocab_size * config.d_model
    total = float(output + _products_once(config) + core_once(config))
    steps = config.controller.steps
    for plan in layer_plans(config):
        taken = config.depths.tokens(length) if plan.depth else length
        if config.memory.segment is not None:
            taken = min(taken, config.memory.segment)
        kind = KINDS[plan.attention](config.attention)
        keys = kind.keys_computed(taken, head_dim=config.head_dim)
        own = _layer_products(config, plan, experts=config.experts.choices)
        keys += config.memory.attended_slots if plan.window else 0
        own += 2 * config.num_heads * config.head_dim * keys
        own += round(memory_reads(config, length=length)) if plan.memory else 0
        own += round(task_writes(config, length=length)) if plan.window else 0
        own += knowledge_reads(config) if plan.knowledge else 0
        own += graph_reads(config, plan, slots=taken) if plan.graph else 0
        own += quantum_reads(config, slots=taken) if plan.quantum else 0
        total += own * (taken / length if plan.depth else steps if plan.core else 1)
        if plan.depth:
            total += _router_products(config)
    total += (core_products(config) - core_once(config)) * steps
    total += sum(products_of_calls(config).values()) * (steps - 1)
    return round(2 * total)


def train_flops_per_token(config: AGIConfig) -> int:
    """Operations for one training token: forward, and backward at twice that.

    What `remat` and the loss recompute is not counted: MFU measures useful work. With a controller
    every exit has a loss, and so logits.
    """
    forward = forward_flops_per_token(config, length=config.max_seq_len)
    exits = config.controller.steps if config.core_layers else 1
    return 3 * (forward + 2 * (exits - 1) * config.vocab_size * config.d_model)


def _tables(config: AGIConfig) -> int:
    """Parameters of tables."""
    d, ngram = config.d_model, config.ngram
    tokens = (1 if config.tie_embeddings else 2) * config.vocab_size * d
    positions = config.max_seq_len * d if config.position_encoding == "learned" else 0
    values = config.vocab_size * config.kv_heads * config.head_dim * config.value_embeddings
    return tokens + positions + values + len(ngram.orders) * ngram.rows * (ngram.dim or d)


def _products(config: AGIConfig, *, experts: int) -> int:
    """Parameters that multiply a token's features, with `experts` of the experts, if any."""
    total = _products_once(config) + core_products(config) + called_products(config)
    for plan in layer_plans(config):
        total += _layer_products(config, plan, experts=experts)
        total += _router_products(config) if plan.depth else 0
        total += memory_once(config) if plan.memory else 0
        total += task_products(config) if plan.window else 0
    return total


def _products_once(config: AGIConfig) -> int:
    """Those outside of the layers."""
    ngram, convs = config.ngram, conv_features(config)
    conv = config.short_conv * prod(convs["input"]) if "input" in convs else 0
    return conv + len(ngram.orders) * (ngram.dim or 0) * config.d_model


def _layer_products(config: AGIConfig, plan: LayerPlan, *, experts: int) -> int:
    d = config.d_model
    total = 2 * d * config.head_dim * (config.num_heads + config.kv_heads)
    if plan.attention == "delta":
        total += 2 * d * config.num_heads  # what decays and what is written
    if plan.attention == "sparse" and config.attention.sparse_form != "topk":
        total += NUM_BRANCHES * d * config.num_heads  # gates
    if plan.attention == "spiking":
        total += d * config.kv_heads
    for place, shape in conv_features(config).items():
        total += 0 if place == "input" or plan.core else config.short_conv * prod(shape)
    total += memory_products(config) if plan.memory else 0
    total += knowledge_products(config) if plan.knowledge else 0
    total += graph_products(config) if plan.graph else 0
    total += quantum_products(config) if plan.quantum else 0
    matrices = 3 if config.feedforward in GATED else 2
    dense = matrices * d * config.d_ff
    if not plan.experts:
        return total + dense
    return total + (experts + (config.experts.shared or 0)) * dense + d * config.experts.num_experts


def _known(config: AGIConfig) -> tuple[int, int]:
    """Parameters of all parametric memories' tables: all, and those that one token reads."""
    whole, read = knowledge_rows(config)
    layers = sum(plan.knowledge for plan in layer_plans(config)) + ("knowledge" in config.called)
    return whole * layers, min(whole, read) * layers


def _router_products(config: AGIConfig) -> int:
    """The router and the predictor of a layer that works on a share of the tokens."""
    hidden = max(1, config.d_model // NARROWER)
    return config.d_model * (1 + hidden) + hidden


def _vectors(config: AGIConfig) -> int:
    """Parameters of norms, mixtures and biases."""
    token = config.d_model * (2 if config.norm == "layer" and config.biases == "all" else 1)
    norms = (4 if config.norm_outputs else 2) * token
    norms += 2 * config.head_dim if config.qk_norm else 0
    if config.attention_type == "delta":
        norms += config.head_dim + 2 * config.num_heads
    if config.attention_type == "spiking":
        norms += config.kv_heads  # thresholds
    values = 1 + config.value_residual + config.value_embeddings
    mixes = (values if values > 1 else 0) + 2 * config.residual_gates
    once = token * (1 + config.embedding_norm) + core_vectors(config)
    plans = layer_plans(config)
    once += sum(plan.depth for plan in plans)  # the predictor's bias
    own = token * (1 + config.norm_outputs)
    around = 0 if config.memory.by_attention else own
    once += sum(plan.memory for plan in plans) * (around + memory_vectors(config))
    once += sum(plan.window for plan in plans) * task_vectors(config)
    once += sum(plan.graph for plan in plans) * (own + graph_vectors(config))
    circuits = sum(plan.quantum for plan in plans)
    once += circuits * (own + quantum_vectors(config)) if circuits else 0
    once += sum(plan.knowledge for plan in plans) * knowledge_vectors(config)
    once += called_vectors(config)
    if config.experts.bias_rate is not None:
        once += config.experts.num_experts * sum(plan.experts for plan in plans)
    return once + config.num_layers * (norms + mixes + _biases(config))


def _biases(config: AGIConfig) -> int:
    """Parameters of one layer's biases."""
    if config.biases == "none":
        return 0
    qkv = (config.num_heads + 2 * config.kv_heads) * config.head_dim
    if config.biases == "qkv":
        return qkv
    hidden = config.d_ff * (2 if config.feedforward in GATED else 1)
    return qkv + hidden + 2 * config.d_model
