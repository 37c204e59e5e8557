"""Memory searched by products of keys (arXiv 1907.05242), gated (arXiv 2412.09764, section 3).

    s_g = K_g norm(q_g)      q = x W_query, of each head two halves g = 0, 1; K_g has R keys
    score(i, j) = s_0[i] + s_1[j]                 of value i R + j, one of R^2
    y = (silu(x W_gate) * sum_heads sum_k softmax(score)_k V[row_k]) W_output

The k values of highest score are found exactly: each is a pair of one of the k best of one half
with one of the k best of the other, so that R^2 values cost 2 R products and a token reads k rows
a head. Keys belong to a head, values to all of them.

Axes: B batch, T time, D model, H heads, G halves, R keys of a half, E features of a half, K chosen,
N = R^2 values, V features of a value.
"""

from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from rtdlm.config import KnowledgeConfig
from rtdlm.modules.primitives import SILU, Projection, RMSNorm, dot, gated


class Found(NamedTuple):
    """The values of highest score, highest first."""

    score_BTHK: jax.Array
    """Float32."""
    row_BTHK: jax.Array
    """int32."""


class ProductKeyMemory(hk.Module):
    """Reads, token by token, a weighted sum of the values whose keys are nearest."""

    def __init__(
        self, config: KnowledgeConfig, *, out_scale: float, name: str = "knowledge"
    ) -> None:
        """`out_scale` is of what is written before training."""
        super().__init__(name=name)
        self.config = config
        self.out_scale = out_scale

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """`[B, T, D]` -> `[B, T, D]`."""
        config, width = self.config, x_BTD.shape[-1]
        wide = config.width(width)
        found = best_pairs(self._scores(x_BTD), top_k=config.choices)
        spread = hk.initializers.RandomNormal(wide**-0.5)
        values_NV = hk.get_parameter("values", (config.num_values, wide), jnp.float32, spread)
        weight_BTHK = jax.nn.softmax(found.score_BTHK, axis=-1)
        read_BTV = weighted_rows(values_NV, found.row_BTHK, weight_BTHK).astype(x_BTD.dtype)
        gate = Projection("BTD,DV->BTV", shape=(width, wide), name="gate")
        output = Projection("BTV,VD->BTD", shape=(wide, width), scale=self.out_scale, name="output")
        return output(gated(SILU, gate(x_BTD), read_BTV))

    @hk.transparent
    def _scores(self, x_BTD: jax.Array) -> jax.Array:
        """Float32 scores of every half's keys `[B, T, H, G, R]`."""
        config, width = self.config, x_BTD.shape[-1]
        heads, half = config.num_heads, config.query_dim // 2
        query = Projection("BTD,DHGE->BTHGE", shape=(width, heads, 2, half), name="query")
        query_BTHGE = RMSNorm(name="query_norm")(query(x_BTD))
        shape = (heads, 2, config.table_rows, half)
        # A normalised query has length sqrt(E): scores start with a spread of one.
        spread = hk.initializers.RandomNormal(half**-0.5)
        keys_HGRE = hk.get_parameter("keys", shape, jnp.float32, spread)
        return dot("BTHGE,HGRE->BTHGR", query_BTHGE, keys_HGRE.astype(x_BTD.dtype))


def best_pairs(score_BTHGR: jax.Array, *, top_k: int) -> Found:
    """The `top_k` pairs, one key of each half, of the highest sums.

    The pair of the i-th and the j-th best, from 1, has i j pairs that are at least as good, itself
    among them: it is a candidate only if i j <= top_k, which leaves about top_k log(top_k).
    """
    rows = score_BTHGR.shape[-1]
    score_BTHGK, key_BTHGK = jax.lax.top_k(score_BTHGR, top_k)
    places = range(top_k)
    pairs = [(i, j) for i in places for j in places if (i + 1) * (j + 1) <= top_k]
    first, second = (jnp.array(side) for side in zip(*pairs, strict=True))
    sums_BTHC = score_BTHGK[..., 0, first] + score_BTHGK[..., 1, second]
    row_BTHC = key_BTHGK[..., 0, first] * rows + key_BTHGK[..., 1, second]
    best_BTHK, at_BTHK = jax.lax.top_k(sums_BTHC, top_k)
    return Found(best_BTHK, jnp.take_along_axis(row_BTHC, at_BTHK, axis=-1))


@jax.checkpoint
def weighted_rows(values_NV: jax.Array, row_BTHK: jax.Array, weight_BTHK: jax.Array) -> jax.Array:
    """Float32 `[B, T, V]`: the sum over heads and choices of weight times row.

    The rows, H K of them a token, are read again in the backward pass instead of kept.
    """
    found_BTHKV = values_NV.at[row_BTHK].get(mode="promise_in_bounds")
    return jnp.sum(found_BTHKV * weight_BTHK[..., None], axis=(2, 3))
