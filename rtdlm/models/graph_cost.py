"""What a layer's graph costs: parameters and operations, counted as in `rtdlm.models.cost`."""

from rtdlm.config import AGIConfig
from rtdlm.models.layers import LayerPlan


def graph_products(config: AGIConfig) -> int:
    """Parameters that multiply a token's features; of a neuron's they do so once a hop."""
    graph, d = config.graph, config.d_model
    width = graph.width(d)
    return (
        2 * d * graph.num_kinds * graph.query_dim + 2 * d * width + _neuron(config) + _halt(config)
    )


def graph_vectors(config: AGIConfig) -> int:
    """Parameters of biases and sharpness, the layer's own norm apart."""
    graph = config.graph
    return graph.num_kinds + 2 * graph.width(config.d_model) + graph.halts


def graph_reads(config: AGIConfig, plan: LayerPlan, *, slots: int) -> int:
    """Products of a token with `slots` others, and those of a neuron at every hop but the first."""
    graph = config.graph
    width = graph.width(config.d_model)
    compared = graph.num_kinds * graph.query_dim * slots
    heard = graph.hops * graph.num_kinds * width * slots
    again = (graph.hops - 1) * (_neuron(config) + _halt(config))
    routed = graph.num_kinds * config.experts.num_experts * slots
    summed = (graph.hops + 1) * width if graph.halts else 0
    return compared + heard + again + summed + (routed if graph.routes and plan.experts else 0)


def _neuron(config: AGIConfig) -> int:
    width = config.graph.width(config.d_model)
    return config.graph.num_kinds * width**2 + 2 * 3 * width**2


def _halt(config: AGIConfig) -> int:
    return 2 * config.graph.width(config.d_model) if config.graph.halts else 0
