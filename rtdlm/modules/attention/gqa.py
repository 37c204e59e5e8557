"""Scaled dot-product attention with grouped key-value heads (GQA, arXiv 2305.13245).

    y = concat_h softmax(q_h k_g(h)^T / sqrt(E) + mask) v_g(h)  W_o

H query heads share K key-value heads, H / K to a group: K = H is multi-head, K = 1 multi-query
attention. Queries and keys may be normalised a head (QK-norm, arXiv 2302.05442), which bounds the
logits, and are then rotated by position.

Axes: B batch, T query time, S key time, D model, H heads, K key-value heads, E head features.
"""

import haiku as hk
import jax

from rtdlm.modules.attention.cache import KVCache
from rtdlm.modules.attention.dot_product import attend
from rtdlm.modules.attention.rope import Rotation, rotate
from rtdlm.modules.primitives import Projection, RMSNorm


class GroupedQueryAttention(hk.Module):
    """Reads what the mask allows, from the row itself or from a cache."""

    def __init__(
        self,
        *,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        qk_norm: bool,
        out_scale: float,
        name: str = "attention",
    ) -> None:
        super().__init__(name=name)
        self.num_heads = num_heads
        self.num_kv_heads = num_kv_heads
        self.head_dim = head_dim
        self.qk_norm = qk_norm
        self.out_scale = out_scale

    def __call__(
        self,
        x_BTD: jax.Array,
        *,
        mask_BTS: jax.Array,
        turn: Rotation | None,
        positions_BT: jax.Array,
        cache: KVCache | None,
    ) -> tuple[jax.Array, KVCache | None]:
        """
        Args:
            x_BTD: normalised input.
            mask_BTS: True where query t may read key s; S is T, or the cache's slots.
            turn: rotation at each position; None leaves order to the mask.
            positions_BT: int32 cache slots of the tokens; read only with a cache.
            cache: keys and values read so far; None attends within the row.

        Returns:
            The output `[B, T, D]` and the cache with this row's keys and values written.
        """
        query, key, value = self._project(x_BTD, turn)
        if cache is not None:
            cache = cache.write(key, value, positions_BT)
            key, value = cache.key_BSKE.astype(x_BTD.dtype), cache.value_BSKE.astype(x_BTD.dtype)
        read_BTHE = attend(query, key, value, mask_BTS)
        model, heads = x_BTD.shape[-1], (self.num_heads, self.head_dim)
        out = Projection(
            "BTHE,HED->BTD", shape=(*heads, model), scale=self.out_scale, name="output"
        )
        return out(read_BTHE), cache

    @hk.transparent
    def _project(
        self, x_BTD: jax.Array, turn: Rotation | None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        def project(name: str, heads: int) -> jax.Array:
            shape = (x_BTD.shape[-1], heads, self.head_dim)
            return Projection("BTD,DHE->BTHE", shape=shape, name=name)(x_BTD)

        query = project("query", self.num_heads)
        key = project("key", self.num_kv_heads)
        value = project("value", self.num_kv_heads)
        if self.qk_norm:
            query, key = RMSNorm(name="query_norm")(query), RMSNorm(name="key_norm")(key)
        if turn is not None:
            query, key = rotate(query, turn), rotate(key, turn)
        return query, key, value
