"""`TMSModel`: the public model, a bundle of pure functions of its parameters.

    model = TMSModel(attention_type="gqa", num_kv_heads=2, position_encoding="rope")
    params = model.init(jax.random.key(0))
    logits = model.logits(params, ids)

Every method is pure and may be jitted, differentiated or sharded; none keeps state.

Axes: B batch, T time, S cache slots, V vocabulary.
"""

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from rtdlm.config import AGIConfig, UserError
from rtdlm.config.controller import Strategy
from rtdlm.data.batch import Batch
from rtdlm.models.cache import DecodeCache, empty_cache
from rtdlm.models.decoder import Decoder
from rtdlm.models.memory import MemoryState, empty_memory
from rtdlm.models.passing import Scores
from rtdlm.models.segmented import Part, extend_segments, joined, read_segments
from rtdlm.modules.head import LossTerms
from rtdlm.parallel import fastest_format

Params = Mapping[str, Mapping[str, jax.Array]]


class TMSModel:
    """A decoder-only language model described by an `AGIConfig`."""

    def __init__(self, config: AGIConfig | None = None, **overrides: Any) -> None:
        """
        Args:
            config: the whole description; None starts from the field defaults.
            **overrides: fields to change, for instance `num_layers=6`.

        `self.config` says what `precision.compute=auto` came to on this process's devices.

        Raises:
            UserError: an unknown field, or values that do not fit together.
        """
        config = (config or AGIConfig()).replace(**overrides)
        if config.precision.compute == "auto":
            config = config.replace(precision={"compute": fastest_format()})
        self.config = config

    @classmethod
    def from_pretrained(cls, path: str | Path, **overrides: Any) -> tuple["TMSModel", Params]:
        """The model in a Hugging Face folder, and its parameters.

        Args:
            path: a folder with config.json and safetensors, of a family that
                `rtdlm.interop.hugging_face` names.
            **overrides: fields to change, for instance `precision={"compute": "float32"}`.

        Raises:
            UserError: there is no such folder, or its architecture cannot be expressed.
        """
        from rtdlm.interop import read_pretrained  # stands above this room and makes models

        found = read_pretrained(path)
        return cls(found.config, **overrides), jax.device_put(found.params)

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

        Raises:
            UserError: positions are counted along a row that is longer than they are learned for.
        """
        return self.read(
            params, ids_BT, positions_BT=positions_BT, segment_ids_BT=segment_ids_BT, key=key
        )[0]

    def read(
        self,
        params: Params,
        ids_BT: jax.Array,
        *,
        positions_BT: jax.Array | None = None,
        segment_ids_BT: jax.Array | None = None,
        memory: MemoryState | None = None,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, MemoryState]:
        """`logits` of rows that follow what `memory` is of, and what is remembered after them.

        None remembers nothing. Rows should be whole segments for others to follow; without
        `memory.segment` there is nothing to remember, and the state is empty.
        """
        rows = self._rows(ids_BT, positions_BT, segment_ids_BT)
        apply = self._functions.apply.logits
        if memory is None:
            memory = self.empty_memory(ids_BT.shape[0])
        if self.config.memory.segment is None:
            return apply(params, key, ids_BT, **rows)[0], memory

        def read(part: Part, memory: MemoryState, key: jax.Array | None) -> tuple[Any, MemoryState]:
            return apply(
                params,
                key,
                part.ids_BS,
                positions_BT=part.positions_BS,
                segment_ids_BT=part.segment_ids_BS,
                memory=memory,
            )

        row = Part(ids_BT, rows["positions_BT"], rows["segment_ids_BT"], None, None)
        scores_NBSV, memory = self._read_segments(read, row, memory, key)
        return joined(scores_NBSV, ids_BT.shape[1]), memory

    def scores(
        self,
        params: Params,
        ids_BT: jax.Array,
        labels_BT: jax.Array,
        *,
        positions_BT: jax.Array | None = None,
        segment_ids_BT: jax.Array | None = None,
        key: jax.Array | None = None,
        terms: LossTerms | None = None,
        memory: MemoryState | None = None,
    ) -> Scores:
        """Statistics of each token against `labels_BT`, the tokens that follow; see `logits`.

        With `terms` the result has the objective too, which is then what to differentiate: its
        gradient costs no second pass over the logits, and the statistics carry none. `memory` is
        as in `read`.
        """
        rows = self._rows(ids_BT, positions_BT, segment_ids_BT)
        apply = self._functions.apply.scores
        if self.config.memory.segment is None:
            return apply(params, key, ids_BT, labels_BT, **rows, terms=terms)

        def read(part: Part, memory: MemoryState, key: jax.Array | None) -> tuple[Any, MemoryState]:
            own = None
            if terms is not None:
                assert part.weights_BS is not None
                own = terms._replace(weights_BT=part.weights_BS)
            scores = apply(
                params,
                key,
                part.ids_BS,
                part.labels_BS,
                positions_BT=part.positions_BS,
                segment_ids_BT=part.segment_ids_BS,
                terms=own,
                memory=memory,
            )
            return scores._replace(memory=None), scores.memory

        if memory is None:
            memory = self.empty_memory(ids_BT.shape[0])
        weights = None if terms is None else terms.weights_BT
        row = Part(ids_BT, rows["positions_BT"], rows["segment_ids_BT"], labels_BT, weights)
        found, memory = self._read_segments(read, row, memory, key)
        length = ids_BT.shape[1]
        means = jax.tree.map(lambda x: jnp.mean(x, axis=0), found)
        return means._replace(
            tokens=jax.tree.map(lambda x: joined(x, length), found.tokens),
            graphs=jax.tree.map(lambda x: _joined_layers(x, length), found.graphs),
            spent=jax.tree.map(lambda x: joined(x, length), found.spent),
            pondered=jax.tree.map(lambda x: joined(x, length), found.pondered),
            objective=None if found.objective is None else jnp.sum(found.objective),
            memory=memory,
        )

    def _read_segments(
        self, read: Any, row: Part, memory: MemoryState, key: jax.Array | None
    ) -> tuple[Any, MemoryState]:
        own = self.config.memory
        assert own.segment is not None
        return read_segments(
            read, row, memory, segment=own.segment, key=key, backprop=own.backprop_segments
        )

    def batch_scores(
        self,
        params: Params,
        batch: Batch,
        *,
        key: jax.Array | None = None,
        terms: LossTerms | None = None,
        memory: MemoryState | None = None,
    ) -> Scores:
        """`scores` of a batch as the loader makes it; `key` turns dropout on, and `memory` is as
        in `read`.
        """
        return self.scores(
            params,
            jnp.asarray(batch.input_ids),
            jnp.asarray(batch.labels),
            positions_BT=jnp.asarray(batch.positions),
            segment_ids_BT=jnp.asarray(batch.segment_ids),
            key=key,
            terms=terms,
            memory=memory,
        )

    def extend(
        self,
        params: Params,
        ids_BT: jax.Array,
        *,
        positions_BT: jax.Array,
        cache: DecodeCache,
        lengths_B: jax.Array | None = None,
    ) -> tuple[jax.Array, DecodeCache]:
        """Logits `[B, T, V]` of T more tokens a row and the cache that now holds them.

        A prompt is T tokens at once, decoding one at a time. Row b's token t is at position
        `positions_BT[b, t]`, below the cache's number of slots and, with learned positions, below
        `max_seq_len`. Rows may end in padding, or stand still: only the first `lengths_B[b]`
        tokens of row b count (None: all), and the next call's stand at the positions after them.
        """
        segment = self.config.memory.segment

        def extend(
            ids_BT: jax.Array,
            positions_BT: jax.Array,
            cache: DecodeCache,
            lengths_B: jax.Array | None,
        ) -> tuple[jax.Array, DecodeCache]:
            return self._functions.apply.extend(
                params, None, ids_BT, positions_BT=positions_BT, cache=cache, lengths_B=lengths_B
            )

        if segment is None:
            return extend(ids_BT, positions_BT, cache, lengths_B)
        return extend_segments(
            extend,
            ids_BT,
            positions_BT=positions_BT,
            cache=cache,
            lengths_B=lengths_B,
            segment=segment,
        )

    def empty_cache(self, batch_size: int, slots: int) -> DecodeCache:
        """A cache for `batch_size` rows of at most `slots` tokens; all zeros."""
        return empty_cache(self.config, batch_size, slots, dtype=self.dtype)

    def empty_memory(self, batch_size: int) -> MemoryState:
        """What `batch_size` rows remember before their first segment; all zeros."""
        return empty_memory(self.config, batch_size, dtype=self.dtype)

    def _rows(
        self, ids_BT: jax.Array, positions_BT: jax.Array | None, segment_ids_BT: jax.Array | None
    ) -> dict[str, jax.Array]:
        config, length = self.config, ids_BT.shape[1]
        learned = config.position_encoding == "learned" and config.memory.segment is None
        if learned and positions_BT is None and length > config.max_seq_len:
            raise UserError(
                f"rows of {length} tokens have no position_encoding='learned' beyond "
                f"max_seq_len={config.max_seq_len}; shorten them or train with a longer max_seq_len"
            )
        return _rows(ids_BT, positions_BT, segment_ids_BT)

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
                memory = None
                if self.config.memory.segment is not None:
                    memory = self.empty_memory(ids_BT.shape[0])
                rows = _rows(ids_BT, None, None)
                return decoder.scores(ids_BT, labels_BT, **rows, terms=None, memory=memory)

            return template, _Methods(decoder.logits, decoder.scores, decoder.extend)

        return hk.multi_transform(build)


def with_strategy(model: TMSModel, strategy: Strategy) -> TMSModel:
    """`model`, for the same parameters, with another `controller_strategy`.

    Raises:
        UserError: it has no compute controller.
    """
    price = model.config.controller.price if strategy != "thorough" else None
    return TMSModel(model.config.replace(controller_strategy=strategy, controller={"price": price}))


def _joined_layers(x_NLBS: jax.Array, length: int) -> jax.Array:
    """`[L, B, T]`: what tokens of N segments leave behind in each layer, as `joined`."""
    joined_BTL = joined(jnp.moveaxis(x_NLBS, 1, -1), length)
    return jnp.moveaxis(joined_BTL, -1, 0)


class _Methods(NamedTuple):
    logits: Callable[..., tuple[jax.Array, MemoryState | None]]
    scores: Callable[..., Scores]
    extend: Callable[..., tuple[jax.Array, DecodeCache]]


def _rows(
    ids_BT: jax.Array, positions_BT: jax.Array | None, segment_ids_BT: jax.Array | None
) -> dict[str, jax.Array]:
    """Positions and segments with their defaults: one document a row."""
    if positions_BT is None:
        positions_BT = jnp.broadcast_to(jnp.arange(ids_BT.shape[1])[None], ids_BT.shape)
    if segment_ids_BT is None:
        segment_ids_BT = jnp.ones_like(ids_BT)
    return {"positions_BT": positions_BT, "segment_ids_BT": segment_ids_BT}
