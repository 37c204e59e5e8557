"""A graph that is read off its nodes: learned, sparse, of several edge types.

    s_r[n, m] = tau_r cos(Q_r x_n, K_r x_m)        A_r = select(s_r)

Q and K begin equal, so that nodes of like content are neighbours before any training: what there is
to learn is then which likeness counts. Where equal content is all that counts nothing is left to
learn; different matrices learn that too (studies/graph_hops.py). tau, the sharpness, is learned.

Axes: B batch, R edge types, N reading nodes, M nodes that are read, D features, E key features.
"""

import haiku as hk
import jax
import jax.numpy as jnp

from rtdlm.modules.graph.graph import Dense
from rtdlm.modules.graph.select import SELECTIONS, Select
from rtdlm.modules.primitives import Projection, unit

SHARPNESS = 10.0
"""tau before training."""


class DynamicGraphBuilder(hk.Module):
    """Decides which node reads which, from what they hold."""

    def __init__(
        self,
        *,
        neighbours: int,
        num_kinds: int = 1,
        key_dim: int = 32,
        select: Select = SELECTIONS["straight_through"],
        tied: bool = True,
        name: str = "edges",
    ) -> None:
        """
        Args:
            neighbours: nodes that a node reads over edges of one type; more where the last of them
                score alike.
            num_kinds: edge types.
            key_dim: features by which nodes are compared.
            select: makes weights of scores; see `SELECTIONS`.
            tied: queries and keys begin with equal weights.
            name: module name, part of the parameters' paths.
        """
        super().__init__(name=name)
        self.neighbours = neighbours
        self.num_kinds = num_kinds
        self.key_dim = key_dim
        self.select = select
        self.tied = tied

    def __call__(
        self, x_BND: jax.Array, *, read_BMD: jax.Array | None = None, allowed_BNM: jax.Array
    ) -> Dense:
        """The graph in which `x_BND` read `read_BMD`, or one another where that is None.

        `allowed_BNM` is bool: who may read whom. A language model allows no later token.
        """
        return self.weigh(*self.look(x_BND, read_BMD), allowed_BNM)

    @hk.name_like("__call__")
    def look(
        self, x_BND: jax.Array, read_BMD: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """What nodes look for, `[B, N, R, E]`, and are found by, `[B, M, R, E]`; of length 1."""
        read_BMD = x_BND if read_BMD is None else read_BMD
        shape = (x_BND.shape[-1], self.num_kinds, self.key_dim)
        query = Projection("BND,DRE->BNRE", shape=shape, name="query")
        start = query.weight() if self.tied else None
        key = Projection("BMD,DRE->BMRE", shape=shape, start=start, name="key")
        return unit(query(x_BND)), unit(key(read_BMD))

    @hk.name_like("__call__")
    def weigh(self, query_BNRE: jax.Array, key_BMRE: jax.Array, allowed_BNM: jax.Array) -> Dense:
        """The graph of nodes with these queries and keys."""
        start = hk.initializers.Constant(SHARPNESS)
        tau_R = hk.get_parameter("sharpness", (self.num_kinds,), jnp.float32, start)
        score_BRNM = jnp.einsum("BNRE,BMRE->BRNM", query_BNRE, key_BMRE, precision="highest")
        score_BRNM *= tau_R[None, :, None, None]
        return Dense(self.select(score_BRNM, allowed_BNM, self.neighbours))
