"""Cross-attention: queries of one sequence read keys and values of another.

    y_t = concat_h sum_s softmax_s(q_th m_s W_k / sqrt(E) where t may read s) m_s W_v  W_o

The other sequence m, a memory, has no order of its own here: no positions are added. A query that
may read nothing gets zero.

Axes: B batch, T query time, S places of the memory, D model, M features of the memory, H heads, K
key-value heads, E head features.
"""

import haiku as hk
import jax
import jax.numpy as jnp

from rtdlm.modules.attention.dot_product import attend
from rtdlm.modules.primitives import Projection


def memory_mask(lengths_B: jax.Array, *, queries: int, slots: int) -> jax.Array:
    """`[B, T, S]`: every query may read the first `lengths_B[b]` places of its row's memory."""
    held_BS = jnp.arange(slots)[None] < lengths_B[:, None]
    return jnp.broadcast_to(held_BS[:, None], (held_BS.shape[0], queries, slots))


def document_mask(segment_ids_BT: jax.Array, memory_ids_BS: jax.Array) -> jax.Array:
    """`[B, T, S]`: a query may read the memory of its own document; number 0, padding, has none."""
    same = segment_ids_BT[:, :, None] == memory_ids_BS[:, None]
    return same & (segment_ids_BT > 0)[:, :, None]


class CrossAttention(hk.Module):
    """Reads a memory, whose width may be another."""

    def __init__(
        self,
        *,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        out_scale: float,
        name: str = "cross_attention",
    ) -> None:
        """
        Args:
            num_heads: query heads.
            num_kv_heads: key and value heads, a divisor of that.
            head_dim: features of a head.
            out_scale: scale of the output projection before training.
            name: module name.
        """
        super().__init__(name=name)
        self.num_heads = num_heads
        self.num_kv_heads = num_kv_heads
        self.head_dim = head_dim
        self.out_scale = out_scale

    def __call__(
        self, x_BTD: jax.Array, memory_BSM: jax.Array, *, mask_BTS: jax.Array
    ) -> jax.Array:
        """`[B, T, D]` in the format of `x_BTD`.

        Args:
            x_BTD: what asks.
            memory_BSM: what is read.
            mask_BTS: True where query t may read place s.
        """

        def heads(x: jax.Array, name: str, count: int) -> jax.Array:
            shape = (x.shape[-1], count, self.head_dim)
            return Projection("BTD,DHE->BTHE", shape=shape, name=name)(x)

        memory = memory_BSM.astype(x_BTD.dtype)
        query = heads(x_BTD, "query", self.num_heads)
        key = heads(memory, "key", self.num_kv_heads)
        value = heads(memory, "value", self.num_kv_heads)
        read_BTHE = attend(query, key, value, mask_BTS)
        some_BT = jnp.any(mask_BTS, axis=-1)
        read_BTHE = jnp.where(some_BT[..., None, None], read_BTHE, jnp.zeros((), read_BTHE.dtype))
        shape = (self.num_heads, self.head_dim, x_BTD.shape[-1])
        out = Projection("BTHE,HED->BTD", shape=shape, scale=self.out_scale, name="output")
        return out(read_BTHE)
