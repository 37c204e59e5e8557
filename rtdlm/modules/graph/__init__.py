"""Graphs: learned from what nodes hold, or given; messages, attention, walks and many hops.

    graph = DynamicGraphBuilder(neighbours=4)(x, allowed_BNM=earlier)     # who reads whom, learned
    y = GraphAttentionUnit(num_heads=4, head_dim=16)(x, graph)            # one hop of GATv2
    x = GraphTransformerBlock(num_heads=4, head_dim=16, d_ff=64)(x, graph)
    thought = MultiHopGraphReasoner(num_kinds=1, halts=True)(x, graph, hops=6)
    p = walk(start, graph, hops=12)                                       # follows edges

A graph is `Dense` or an `EdgeList`, and every module takes both. Without an order of nodes all is
permutation-equivariant; order enters by who is allowed to read whom.
"""

from rtdlm.modules.graph.algorithms import FAR, components, distances, reachable
from rtdlm.modules.graph.attention import GraphAttentionUnit
from rtdlm.modules.graph.block import GraphTransformerBlock
from rtdlm.modules.graph.builder import DynamicGraphBuilder
from rtdlm.modules.graph.cache import GraphCache
from rtdlm.modules.graph.experts import GraphMoE
from rtdlm.modules.graph.graph import Dense, EdgeList, Graph, to_dense, to_edges
from rtdlm.modules.graph.halt import HaltGate
from rtdlm.modules.graph.layer import GraphLayer, GraphOutput, GraphStatistics, Spread
from rtdlm.modules.graph.neuron import GraphNeuron
from rtdlm.modules.graph.reasoner import MultiHopGraphReasoner, Reasoning
from rtdlm.modules.graph.select import SELECTIONS
from rtdlm.modules.graph.walk import after, walk

__all__ = [
    "FAR",
    "SELECTIONS",
    "Dense",
    "DynamicGraphBuilder",
    "EdgeList",
    "Graph",
    "GraphAttentionUnit",
    "GraphCache",
    "GraphLayer",
    "GraphMoE",
    "GraphNeuron",
    "GraphOutput",
    "GraphStatistics",
    "GraphTransformerBlock",
    "HaltGate",
    "MultiHopGraphReasoner",
    "Reasoning",
    "Spread",
    "after",
    "components",
    "distances",
    "reachable",
    "to_dense",
    "to_edges",
    "walk",
]
