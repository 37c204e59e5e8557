"""A node that listens to its neighbours: one round of messages over typed edges, with a copy gate.

    m_n = sum_r W_r sum_m A_r[n, m] h_m                 what neighbours say, a matrix an edge type
    z_n = sigmoid(Z [h_n, m_n, x_n])                    how much to change
    h_n <- (1 - z_n) h_n + z_n tanh(C [h_n, m_n, x_n])

x is what the node was given; reading it again at every round keeps deep reasoning on its question.
With the gate shut a node hands on what it holds, however many rounds there are (arXiv 2110.07732);
it begins half open. Message passing as in arXiv 1704.01212, typed as in arXiv 1703.06103.

Axes: B batch, R edge types, N nodes, D features.
"""

import haiku as hk
import jax
import jax.numpy as jnp

from rtdlm.modules.graph.graph import Graph
from rtdlm.modules.primitives import Projection


class GraphNeuron(hk.Module):
    """One round; the same weights serve every round that a caller runs."""

    def __init__(self, *, num_kinds: int, name: str = "neuron") -> None:
        """`num_kinds` is how many types of edges the graph has."""
        super().__init__(name=name)
        self.num_kinds = num_kinds

    def __call__(self, h_BND: jax.Array, given_BND: jax.Array, graph: Graph) -> jax.Array:
        """States after nodes have heard their neighbours, of the same shape and format."""
        return self.update(h_BND, given_BND, graph.read(h_BND))

    @hk.name_like("__call__")
    def update(self, h_BND: jax.Array, given_BND: jax.Array, heard_BRND: jax.Array) -> jax.Array:
        """States after nodes have heard `heard_BRND`, over edges of each type."""
        features = h_BND.shape[-1]
        kinds = (self.num_kinds, features, features)
        message = Projection("BRND,RDE->BNE", shape=kinds, name="message")(heard_BRND)
        seen_BNI = jnp.concatenate([h_BND, message, given_BND], axis=-1)
        shape = (seen_BNI.shape[-1], features)
        gate = Projection("BNI,ID->BND", shape=shape, bias=True, name="gate")(seen_BNI)
        candidate = Projection("BNI,ID->BND", shape=shape, bias=True, name="candidate")(seen_BNI)
        z_BND = jax.nn.sigmoid(gate)
        return (1 - z_BND) * h_BND + z_BND * jnp.tanh(candidate)
