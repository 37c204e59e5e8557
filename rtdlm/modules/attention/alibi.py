"""Attention with linear biases: a key counts less the further back it is (arXiv 2108.12409).

    s_ts = scale q_t k_s - m_h (p_t - p_s)        m_h = 2^(-8 h / H),  h = 1 ... H

with p the position within the document. For H that is no power of two the heads have the slopes of
the next lower power, then every second one of the next higher, as the paper's authors do. A bounded
score (soft cap) is bounded first, so that far keys still fade.

Axes: B batch, T query time, S key time, H heads, K key-value heads, G = H / K.
"""

from math import log2
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Places(NamedTuple):
    """Positions within the document, int32."""

    query_BT: jax.Array
    key_BS: jax.Array

    def block(self, queries: slice, keys: slice) -> "Places":
        """Of some queries and some keys."""
        return Places(self.query_BT[:, queries], self.key_BS[:, keys])

    @property
    def back_BTS(self) -> jax.Array:
        """How many tokens key s is before query t."""
        return self.query_BT[:, :, None] - self.key_BS[:, None]


def alibi_slopes(num_heads: int) -> tuple[float, ...]:
    """The slope of each of `num_heads` heads, per token."""
    lower: int = 2 ** int(log2(num_heads))
    slopes = [2.0 ** (-8 * head / lower) for head in range(1, lower + 1)]
    between = [2.0 ** (-4 * head / lower) for head in range(1, 2 * lower, 2)]
    return (*slopes, *between[: num_heads - lower])


def lower_far(
    scores_BKGTS: jax.Array, slopes_H: tuple[float, ...], back_BTS: jax.Array
) -> jax.Array:
    """Float32 scores less each head's slope times the distance."""
    slopes = jnp.asarray(slopes_H, jnp.float32).reshape(1, *scores_BKGTS.shape[1:3], 1, 1)
    return scores_BKGTS - slopes * back_BTS.astype(jnp.float32)[:, None, None]
