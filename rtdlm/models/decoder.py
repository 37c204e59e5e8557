"""The decoder: embedding, a stack of blocks, a norm and an output table.

Axes: B batch, T time, S cache slots, D model, L layers, V vocabulary.
"""

from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from rtdlm.config import AGIConfig
from rtdlm.models.block import Block, BlockInput, BlockOutput, remat
from rtdlm.modules import head
from rtdlm.modules.attention import KVCache, cache_mask, causal_mask, rotation
from rtdlm.modules.experts import ExpertStatistics
from rtdlm.modules.primitives import RMSNorm, dropout
from rtdlm.parallel import constrain

DEFAULT_ROPE_BASE = 10_000.0


class Features(NamedTuple):
    """The stack's result, ready for the output table."""

    x_BTD: jax.Array
    table_VD: jax.Array
    left: BlockOutput


class Scores(NamedTuple):
    """Statistics of every token, and of the experts where there are any (leading axis L)."""

    tokens: head.TokenStatistics
    experts: ExpertStatistics | None


class Decoder(hk.Module):
    """The model as one Haiku module, with one method for each use of it."""

    def __init__(self, config: AGIConfig, *, dtype: jnp.dtype, name: str = "decoder") -> None:
        """`dtype` is that of activations; parameters are float32 and cast where they are used."""
        super().__init__(name=name)
        self.config = config
        self.dtype = dtype

    @hk.name_like("__call__")
    def logits(
        self, ids_BT: jax.Array, *, positions_BT: jax.Array, segment_ids_BT: jax.Array
    ) -> jax.Array:
        """Float32 logits `[B, T, V]` of the token after each position."""
        features = self._rows(ids_BT, positions_BT, segment_ids_BT)
        return head.logits(features.x_BTD, features.table_VD, cap=self.config.logit_soft_cap)

    @hk.name_like("__call__")
    def scores(
        self,
        ids_BT: jax.Array,
        labels_BT: jax.Array,
        *,
        positions_BT: jax.Array,
        segment_ids_BT: jax.Array,
    ) -> Scores:
        """Statistics of every token against its label, without keeping the logits."""
        features = self._rows(ids_BT, positions_BT, segment_ids_BT)
        statistics = head.token_statistics(
            features.x_BTD,
            features.table_VD,
            labels_BT,
            cap=self.config.logit_soft_cap,
            chunk_size=self.config.loss.chunk_size,
        )
        return Scores(statistics, features.left.experts)

    @hk.name_like("__call__")
    def extend(
        self, ids_BT: jax.Array, *, positions_BT: jax.Array, cache: KVCache
    ) -> tuple[jax.Array, KVCache]:
        """Features `[B, T, D]` -> logits of T more tokens a row, and the longer cache.

        Args:
            ids_BT: tokens that continue each row.
            positions_BT: their positions, which are their slots in the cache.
            cache: keys and values so far, with a leading layer axis.
        """
        slots = cache.key_BSKE.shape[2]
        mask = cache_mask(positions_BT, slots=slots)
        weights = jnp.ones(ids_BT.shape, jnp.float32)
        features = self._features(ids_BT, mask, positions_BT, weights, cache)
        scores = head.logits(features.x_BTD, features.table_VD, cap=self.config.logit_soft_cap)
        assert features.left.cache is not None
        return scores, features.left.cache

    @hk.transparent
    def _rows(
        self, ids_BT: jax.Array, positions_BT: jax.Array, segment_ids_BT: jax.Array
    ) -> Features:
        weights_BT = (segment_ids_BT > 0).astype(jnp.float32)
        return self._features(ids_BT, causal_mask(segment_ids_BT), positions_BT, weights_BT, None)

    @hk.transparent
    def _features(
        self,
        ids_BT: jax.Array,
        mask_BTS: jax.Array,
        positions_BT: jax.Array,
        weights_BT: jax.Array,
        cache: KVCache | None,
    ) -> Features:
        embedding_VD, output_VD = self._tables()
        x_BTD = constrain(embedding_VD[ids_BT].astype(self.dtype), "batch", None, None)
        x_BTD = dropout(x_BTD, rate=self.config.dropout_rate)
        turn = None
        if self.config.position_encoding == "rope":
            base = self.config.rope_base or DEFAULT_ROPE_BASE
            turn = rotation(positions_BT, head_dim=self.config.head_dim, base=base)
        given = BlockInput(mask_BTS, turn, positions_BT, weights_BT)
        x_BTD, left = self._stack(x_BTD, given, cache)
        return Features(RMSNorm(name="final_norm")(x_BTD), output_VD, left)

    @hk.transparent
    def _tables(self) -> tuple[jax.Array, jax.Array]:
        config = self.config
        shape = (config.vocab_size, config.d_model)
        scale = config.d_model**-0.5
        embedding = hk.get_parameter(
            "embedding", shape, jnp.float32, hk.initializers.RandomNormal(scale)
        )
        if config.tie_embeddings:
            return embedding, embedding
        output = hk.get_parameter("output", shape, jnp.float32, hk.initializers.RandomNormal(scale))
        return embedding, output

    @hk.transparent
    def _stack(
        self, x_BTD: jax.Array, given: BlockInput, cache: KVCache | None
    ) -> tuple[jax.Array, BlockOutput]:
        config = self.config

        def layer(x_BTD: jax.Array, cache: KVCache | None) -> tuple[jax.Array, BlockOutput]:
            block = Block(config)
            return remat(block, config.remat)(x_BTD, given, cache)

        stack = hk.layer_stack(
            config.num_layers,
            with_per_layer_inputs=True,
            unroll=config.unroll,
            name="layers",
        )
        x_BTD, left = stack(layer)(x_BTD, cache)
        return x_BTD, left
