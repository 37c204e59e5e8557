"""Attention over neighbours that depends on both ends of an edge: GATv2 (arXiv 2105.14491).

    e_h[n, m] = a_h . leaky_relu(S_h x_n + T_h x_m + K_h r)
    alpha_h[n, m] = A_r[n, m] exp(e_h[n, m]) / (the sum of it over m and r)
    y_n = sum_h O_h sum_m alpha_h[n, m] T_h x_m

With A of zeros and ones that is the paper's layer, with a vector K r an edge type; other weights
are a prior that attention starts from, through which a learned graph gets gradient: in the dense
form also where its weight is 0, as straight-through selection needs it. In the older GAT the order
of a node's neighbours was the same for all nodes. A node without neighbours gets 0.

Dense graphs cost R N^2 H E, lists of edges E' H E with E' edges.

Axes: B batch, R edge types, N reading nodes, M nodes that are read, H heads, E head features, D
features, L edges of a list.
"""

import haiku as hk
import jax
import jax.numpy as jnp

from rtdlm.modules.graph.graph import Dense, EdgeList, Graph
from rtdlm.modules.primitives import Projection

HIGHEST = 20.0
"""By how much the score of an edge that is not there may be above all that are."""
PAIRS = 2**14
"""Of a row, scored at a time in the dense form."""
SLOPE = 0.2
"""Of the leaky ReLU below zero, the paper's."""


class GraphAttentionUnit(hk.Module):
    """Multi-head GATv2 over dense graphs or lists of edges, with the same parameters."""

    def __init__(
        self,
        *,
        num_heads: int,
        head_dim: int,
        num_kinds: int = 1,
        out_scale: float = 1.0,
        name: str = "graph_attention",
    ) -> None:
        """
        Args:
            num_heads: ways of looking at an edge.
            head_dim: features of each.
            num_kinds: edge types.
            out_scale: scale of what is written before training.
            name: module name, part of the parameters' paths.
        """
        super().__init__(name=name)
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.num_kinds = num_kinds
        self.out_scale = out_scale

    def __call__(
        self, x_BND: jax.Array, graph: Graph, *, read_BMD: jax.Array | None = None
    ) -> jax.Array:
        """`[B, N, D]` -> `[B, N, D]`; nodes read `read_BMD`, or one another where that is None."""
        heads, features, model = self.num_heads, self.head_dim, x_BND.shape[-1]
        read_BMD = x_BND if read_BMD is None else read_BMD
        inner = (model, heads, features)
        reader_BNHE = Projection("BND,DHE->BNHE", shape=inner, name="reader")(x_BND)
        read_BMHE = Projection("BMD,DHE->BMHE", shape=inner, name="read")(read_BMD)
        spread = hk.initializers.RandomNormal(features**-0.5)
        direction_HE = hk.get_parameter("direction", (heads, features), jnp.float32, spread)
        zeros = hk.initializers.Constant(0.0)
        kind_RHE = hk.get_parameter("kind", (self.num_kinds, heads, features), jnp.float32, zeros)
        given = (reader_BNHE, read_BMHE, kind_RHE, direction_HE)
        y_BNHE = (
            _over_pairs(*given, graph) if isinstance(graph, Dense) else _over_edges(*given, graph)
        )
        outer = (heads, features, model)
        return Projection("BNHE,HED->BND", shape=outer, scale=self.out_scale, name="output")(y_BNHE)


def _over_pairs(
    reader_BNHE: jax.Array,
    read_BMHE: jax.Array,
    kind_RHE: jax.Array,
    direction_HE: jax.Array,
    graph: Dense,
) -> jax.Array:
    score_BRNMH = _pair_scores(reader_BNHE, read_BMHE, kind_RHE, direction_HE)
    prior_BRNM1 = graph.weight_BRNM[..., None]
    there = prior_BRNM1 > 0
    highest = jnp.max(jnp.where(there, score_BRNMH, -jnp.inf), axis=(1, 3), keepdims=True)
    # Where there is no edge the share is 0 by its prior alone: a learned graph gets gradient there.
    above = jnp.minimum(score_BRNMH - _finite(highest), HIGHEST)
    share_BRNMH = prior_BRNM1 * jnp.exp(above)
    total_BNH = jnp.sum(share_BRNMH, axis=(1, 3))
    y_BNHE = jnp.einsum("BRNMH,BMHE->BNHE", share_BRNMH, read_BMHE.astype(jnp.float32))
    return _over(y_BNHE, total_BNH).astype(read_BMHE.dtype)


def _pair_scores(
    reader_BNHE: jax.Array, read_BMHE: jax.Array, kind_RHE: jax.Array, direction_HE: jax.Array
) -> jax.Array:
    """`[B, R, N, M, H]`, for some readers after the others.

    What is seen of a pair, R E numbers a head, is neither there for all pairs at once nor kept for
    the backward pass.
    """

    @jax.checkpoint
    def of_one(reader_BHE: jax.Array) -> jax.Array:
        seen = reader_BHE[:, None] + read_BMHE
        seen_BRMHE = seen[:, None] + kind_RHE[None, :, None].astype(seen.dtype)
        return _scores(seen_BRMHE, direction_HE)

    readers = max(1, PAIRS // read_BMHE.shape[1])
    score_NBRMH = jax.lax.map(of_one, jnp.moveaxis(reader_BNHE, 1, 0), batch_size=readers)
    return jnp.moveaxis(score_NBRMH, 0, 2)


def _over_edges(
    reader_BNHE: jax.Array,
    read_BMHE: jax.Array,
    kind_RHE: jax.Array,
    direction_HE: jax.Array,
    graph: EdgeList,
) -> jax.Array:
    def at(x_BNHE: jax.Array, place_BL: jax.Array) -> jax.Array:
        return jnp.take_along_axis(x_BNHE, place_BL[:, :, None, None], axis=1)

    sent_BLHE = at(read_BMHE, graph.source_BE)
    seen_BLHE = at(reader_BNHE, graph.target_BE) + sent_BLHE
    seen_BLHE += kind_RHE[graph.kind_BE].astype(seen_BLHE.dtype)
    score_BLH = _scores(seen_BLHE, direction_HE)
    prior_BL1 = graph.weight_BE[..., None]
    there = prior_BL1 > 0
    masked = jnp.where(there, score_BLH, -jnp.inf)

    def highest(score_LH: jax.Array, target_L: jax.Array) -> jax.Array:
        return jax.ops.segment_max(score_LH, target_L, num_segments=graph.num_nodes)

    highest_BNH = _finite(jax.vmap(highest)(masked, graph.target_BE))
    own_BLH = jnp.take_along_axis(highest_BNH, graph.target_BE[:, :, None], axis=1)
    share_BLH = prior_BL1 * jnp.exp(jnp.where(there, score_BLH - own_BLH, -jnp.inf))
    sent = share_BLH[..., None] * sent_BLHE.astype(jnp.float32)
    batch, edges, *heads = sent.shape
    y_BNI = jnp.sum(graph.sum_at_targets(sent.reshape(batch, edges, -1)), axis=1)
    total_BNH = jnp.sum(graph.sum_at_targets(share_BLH), axis=1)
    y_BNHE = y_BNI.reshape(batch, graph.num_nodes, *heads)
    return _over(y_BNHE, total_BNH).astype(read_BMHE.dtype)


def _scores(seen: jax.Array, direction_HE: jax.Array) -> jax.Array:
    """a . leaky_relu(seen), in float32."""
    bent = jax.nn.leaky_relu(seen.astype(jnp.float32), SLOPE)
    return jnp.einsum("...HE,HE->...H", bent, direction_HE)


def _finite(highest: jax.Array) -> jax.Array:
    """0 for nodes without neighbours; the shift of a softmax carries no gradient."""
    return jax.lax.stop_gradient(jnp.where(jnp.isfinite(highest), highest, 0.0))


def _over(y_BNHE: jax.Array, total_BNH: jax.Array) -> jax.Array:
    """A node without neighbours has nothing to divide, and no infinite slope either."""
    return y_BNHE / jnp.where(total_BNH > 0, total_BNH, 1.0)[..., None]
