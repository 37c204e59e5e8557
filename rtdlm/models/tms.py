"""`TMSModel`: the public model, a bundle of pure functions of its parameters.

    model = TMSModel(attention_type="gqa", num_kv_heads=2, position_encoding="rope")
    params = model.init(jax.random.key(0))
    logits = model.logits(params, ids)

Every method is pure and may be jitted, differentiated or sharded; none keeps state.

Axes: B batch, T time, S cache slots, V vocabulary.
"""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from rtdlm.config import AGIConfig
from rtdlm.data.batch import Batch
from rtdlm.models.decoder import Decoder, Scores
from rtdlm.modules.attention import KVCache

Params = Mapping[str, Mapping[str, jax.Array]]


class TMSModel:
    """A decoder-only language model described by an `AGIConfig`."""

    def __init__(self, config: AGIConfig | None = None, **overrides: Any) -> None:
        """
        Args:
            config: the whole description; None starts from the field defaults.
            **overrides: fields to change, for instance `num_layers=6`.

        Raises:
            UserError: an unknown field, or values that do not fit together.
        """
        self.config = (config or AGIConfig()).replace(**overrides)

    def init(self, key: jax.Array) -> Params:
        """Fresh float32 parameters; the same key gives the same ones on any mesh."""
        ids = jnp.zeros((1, 2), jnp.int32)
        return self._functions.init(key, ids, ids)

    def logits(
        self,
        params: Params,
        ids_BT: jax.Array,
        *,
        positions_BT: jax.Array | None = None,
        segment_ids_BT: jax.Array | None = None,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """Float32 logits `[B, T, V]` of the token that follows each position.

        Args:
            params: as `init` gives them.
            ids_BT: int32 tokens.
            positions_BT: int32 position within each document; None counts along the row.
            segment_ids_BT: int32 document of each token, 0 for padding; None is one document.
            key: turns dropout on.
        """
        rows = _rows(ids_BT, positions_BT, segment_ids_BT)
        return self._functions.apply.logits(params, key, ids_BT, **rows)

    def scores(
        self,
        params: Params,
        ids_BT: jax.Array,
        labels_BT: jax.Array,
        *,
        positions_BT: jax.Array | None = None,
        segment_ids_BT: jax.Array | None = None,
        key: jax.Array | None = None,
    ) -> Scores:
        """Statistics of each token against `labels_BT`, the tokens that follow; see `logits`."""
        rows = _rows(ids_BT, positions_BT, segment_ids_BT)
        return self._functions.apply.scores(params, key, ids_BT, labels_BT, **rows)

    def batch_scores(self, params: Params, batch: Batch, *, key: jax.Array | None = None) -> Scores:
        """`scores` of a batch as the loader makes it; `key` turns dropout on."""
        return self.scores(
            params,
            jnp.asarray(batch.input_ids),
            jnp.asarray(batch.labels),
            positions_BT=jnp.asarray(batch.positions),
            segment_ids_BT=jnp.asarray(batch.segment_ids),
            key=key,
        )

    def extend(
        self, params: Params, ids_BT: jax.Array, *, positions_BT: jax.Array, cache: KVCache
    ) -> tuple[jax.Array, KVCache]:
        """Logits `[B, T, V]` of T more tokens a row and the cache that now holds them.

        A prompt is T tokens at once, decoding one at a time. Row b's token t is at position
        `positions_BT[b, t]`, below the cache's number of slots.
        """
        return self._functions.apply.extend(
            params, None, ids_BT, positions_BT=positions_BT, cache=cache
        )

    def empty_cache(self, batch_size: int, slots: int) -> KVCache:
        """A cache for `batch_size` rows of at most `slots` tokens."""
        config = self.config
        shape = (config.num_layers, batch_size, slots, config.kv_heads, config.head_dim)
        return KVCache.empty(*shape, dtype=self.dtype)

    @property
    def dtype(self) -> jnp.dtype:
        """Format of activations and caches."""
        return jnp.dtype(self.config.precision.compute)

    @cached_property
    def shapes(self) -> Params:
        """Shapes and dtypes of the parameters, without making any."""
        return jax.eval_shape(self.init, jax.random.key(0))

    @cached_property
    def _functions(self) -> hk.MultiTransformed:
        def build() -> tuple[Any, Any]:
            decoder = Decoder(self.config, dtype=self.dtype)

            def template(ids_BT: jax.Array, labels_BT: jax.Array) -> Scores:
                return decoder.scores(ids_BT, labels_BT, **_rows(ids_BT, None, None))

            return template, _Methods(decoder.logits, decoder.scores, decoder.extend)

        return hk.multi_transform(build)


class _Methods(NamedTuple):
    logits: Callable[..., jax.Array]
    scores: Callable[..., Scores]
    extend: Callable[..., tuple[jax.Array, KVCache]]


def _rows(
    ids_BT: jax.Array, positions_BT: jax.Array | None, segment_ids_BT: jax.Array | None
) -> dict[str, jax.Array]:
    """Positions and segments with their defaults: one document a row."""
    if positions_BT is None:
        positions_BT = jnp.broadcast_to(jnp.arange(ids_BT.shape[1])[None], ids_BT.shape)
    if segment_ids_BT is None:
        segment_ids_BT = jnp.ones_like(ids_BT)
    return {"positions_BT": positions_BT, "segment_ids_BT": segment_ids_BT}
