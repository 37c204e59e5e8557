"""What a layer's graph costs: parameters and operations, counted as in `rtdlm.models.cost`."""

from rtdlm.config import AGIConfig
from rtdlm.models.layers import LayerPlan
from rtdlm.modules.graph.layer import WIDER

SCORED = 7
"""Operations of a score along an edge, per feature: two sums, three to bend it, a product and its
sum; a product elsewhere is two."""


def graph_products(config: AGIConfig) -> int:
    """Parameters that multiply a token's features; those of a hop do so at every one."""
    graph, d = config.graph, config.d_model
    width = graph.width(d)
    return 2 * d * graph.num_kinds * graph.query_dim + 2 * d * width + _hop(config) + _halt(config)


def graph_vectors(config: AGIConfig) -> int:
    """Parameters of biases and sharpness, the layer's own norm apart."""
    graph = config.graph
    # Two biases of a neuron; of a block two norms, and directions that edges are scored by.
    width = graph.width(config.d_model)
    scored = (graph.num_kinds + 1) * width if graph.hears == "attention" else 0
    return graph.num_kinds + 2 * width + scored + graph.halts


def graph_reads(config: AGIConfig, plan: LayerPlan, *, slots: int) -> int:
    """Products of a token with `slots` others, and its own at every hop but the first."""
    graph = config.graph
    width = graph.width(config.d_model)
    compared = graph.num_kinds * graph.query_dim * slots
    heard = graph.hops * graph.num_kinds * width * slots
    if graph.hears == "attention":
        heard = graph.hops * (SCORED * graph.num_kinds + 2) * width * slots // 2
    again = (graph.hops - 1) * (_hop(config) + _halt(config))
    routed = graph.num_kinds * config.experts.num_experts * slots
    summed = (graph.hops + 1) * width if graph.halts else 0
    return compared + heard + again + summed + (routed if graph.routes and plan.experts else 0)


def _hop(config: AGIConfig) -> int:
    width = config.graph.width(config.d_model)
    if config.graph.hears == "attention":
        return (3 + 2 * WIDER) * width**2
    return config.graph.num_kinds * width**2 + 2 * 3 * width**2


def _halt(config: AGIConfig) -> int:
    return 2 * config.graph.width(config.d_model) if config.graph.halts else 0
