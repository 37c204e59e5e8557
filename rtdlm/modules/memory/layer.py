"""One layer's memory: three tiers behind one state, read by every token, written once a segment.

    q, k, v = conv(x W_q), conv(x W_k), conv(x W_v)      q and k at length 1; see `recent`
    y = fuse(what each tier reads for q) W_o

Queries, keys and values are shared by the tiers, or are attention's (arXiv 2404.07143): then what
is fused is added to what each of its heads reads, and there is no W here. Memory's own convolutions
and the recurrent matrix go on from token to token; the others are written at a segment's end, from
all of its keys and values, so that what a token reads there is older than its segment. In training
a call is a whole segment. In decoding it is a part of one, whose keys and values wait in `Pending`
until the segment is complete.

Axes: B batch, T time, S tokens of a segment, D model, H heads, E features, M slots, N tiers.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from rtdlm.config.memory import MemoryConfig
from rtdlm.modules.memory.consolidate import consolidated
from rtdlm.modules.memory.fusion import fuse, left_of_attention
from rtdlm.modules.memory.matrix import Matrix
from rtdlm.modules.memory.meta import Modulation, modulation, read_meta, write_meta
from rtdlm.modules.memory.novelty import novelty
from rtdlm.modules.memory.pending import Pending
from rtdlm.modules.memory.read import FIRST_SLOPE
from rtdlm.modules.memory.recent import MemoryHeads, Recent, convolved
from rtdlm.modules.memory.recurrent import read_recurrent
from rtdlm.modules.memory.scores import FIRST_SCALE, positive
from rtdlm.modules.memory.short_term import ShortTerm, read_window, write_window
from rtdlm.modules.memory.spread import keep_spread, read_spread
from rtdlm.modules.memory.store import Store, mark_used
from rtdlm.modules.memory.summaries import read_summaries, write_summaries
from rtdlm.modules.memory.tokens import Tokens, last_label
from rtdlm.modules.memory.write import write_store
from rtdlm.modules.primitives import Projection, project_all, unit, where_rows

Turn = Callable[[jax.Array, jax.Array], jax.Array]
"""Of heads `[B, T, H, E]` and their positions `[B, T]`: the heads, rotated to them."""


class LayerMemory(NamedTuple):
    """What a layer remembers of a batch of rows; None for what it does not have."""

    stm: ShortTerm | None
    """Of the layer's own heads, or of attention's (`attended`)."""
    episodic: Store | None
    recurrent: Matrix | None
    summaries: ShortTerm | None
    mtm: Matrix | ShortTerm | None
    """A matrix, or tokens that attention reads (`task_tokens`)."""
    recent: Recent | None
    """For the short convolutions; emptied with short-term and with long-term memory."""
    convs: Mapping[str, jax.Array] | None = None
    """What the layer's other convolutions read again `[B, J, ...]`, by their place, where they go
    on with a window that attention reads."""

    @classmethod
    def empty(
        cls, config: MemoryConfig, *rows: int, heads: int, features: int, dtype: jnp.dtype
    ) -> "LayerMemory":
        """For `rows`: (layers,) batch; without what attention reads."""
        window = 0 if config.is_attended else config.stm_window
        shape, slots = (heads, features), config.episodic_slots
        kept, back = config.summary_slots, config.conv_width - 1
        return cls(
            ShortTerm.empty(*rows, window, *shape, dtype=dtype) if window else None,
            Store.empty(*rows, slots, *shape, dtype=dtype) if slots else None,
            Matrix.empty(*rows, *shape) if config.recurrent != "none" else None,
            ShortTerm.empty(*rows, kept, *shape, dtype=dtype) if kept else None,
            Matrix.empty(*rows, *shape) if "mtm" in config.layer_tiers else None,
            Recent.empty(*rows, back, *shape, dtype=dtype) if back > 0 else None,
        )


class MemoryStatistics(NamedTuple):
    """Float32 scalars, means over tokens and heads; None where there is no such tier."""

    gate_stm: jax.Array | None
    """Share with which a tier is let through."""
    gate_episodic: jax.Array | None
    gate_recurrent: jax.Array | None
    gate_summaries: jax.Array | None
    gate_mtm: jax.Array | None
    stm_hits: jax.Array | None
    """Share of short-term reading that falls on something."""
    episodic_hits: jax.Array | None
    summary_hits: jax.Array | None
    episodic_fill: jax.Array | None
    """Share of the store's slots that hold something."""
    episodic_age: jax.Array | None
    """Mean age of what is stored [tokens]."""


class MemoryOutput(NamedTuple):
    """What memory says to a call's tokens, and what it then is."""

    read_BTHE: jax.Array
    """What tiers give each head, as one."""
    kept_BTH: jax.Array | None
    """Float32; the share of attention's own reading that stays beside it; None is all."""
    out_BTD: jax.Array | None
    """Projected; None by attention's heads, whose output projection is attention's."""
    modulation: Modulation | None
    """Of the feed-forward layer's input; None without a bank of tasks."""
    memory: LayerMemory
    pending: Pending | None
    statistics: MemoryStatistics


class MemoryLayer(hk.Module):
    """Reads all tiers, and writes them at the end of a segment."""

    def __init__(
        self,
        config: MemoryConfig,
        *,
        heads: int,
        features: int,
        out_scale: float,
        turn: Turn | None = None,
        name: str = "memory",
    ) -> None:
        """
        Args:
            config: which tiers.
            heads: of memory.
            features: of a head.
            out_scale: of the output projection before training.
            turn: rotates heads to their positions, where they are those of an attention that does;
                read by a store that knows of age.
            name: module name.
        """
        super().__init__(name=name)
        self.config = config
        self.heads = heads
        self.features = features
        self.out_scale = out_scale
        self.turn = turn

    def __call__(
        self,
        x_BTD: jax.Array,
        tokens: Tokens,
        memory: LayerMemory,
        pending: Pending | None,
        heads: MemoryHeads | None = None,
    ) -> MemoryOutput:
        """
        Args:
            x_BTD: normalised input.
            tokens: what the call reads, all of one segment a row.
            memory: what is remembered of earlier segments.
            pending: the earlier tokens of this segment; None if the call is a whole one.
            heads: attention's, of the tokens; None makes memory's own.
        """
        (query, key, value), memory = self._heads(x_BTD, tokens, memory, heads)
        query, key = (unit(x).astype(x_BTD.dtype) for x in (query, key))
        reads, memory, found = self._read(x_BTD, query, key, value, tokens, memory)
        bank = self._modulation(x_BTD, tokens, memory)
        config = self.config
        fused_BTHE, share_BTHN = fuse(
            x_BTD,
            query,
            list(reads.values()),
            priors=[config.prior(tier) for tier in reads],
            how=config.fusion or "gated",
        )
        out_BTD = None if heads is not None else self._output(fused_BTHE, x_BTD.shape[-1])
        statistics = self._statistics(share_BTHN, found, memory, tokens)
        memory, pending = self._write(memory, pending, key, value, tokens)
        kept_BTH = None
        if config.fusion == "mixed":
            kept_BTH = left_of_attention(share_BTHN, [found.get(tier) for tier in reads])
        return MemoryOutput(fused_BTHE, kept_BTH, out_BTD, bank, memory, pending, statistics)

    @hk.transparent
    def _heads(
        self, x_BTD: jax.Array, tokens: Tokens, memory: LayerMemory, given: MemoryHeads | None
    ) -> tuple[MemoryHeads, LayerMemory]:
        """Queries, keys and values, and memory with what their convolutions read next."""
        if given is not None:
            return given, memory
        shape = (x_BTD.shape[-1], self.heads, self.features)
        heads = MemoryHeads(
            *project_all(
                x_BTD,
                [
                    Projection("BTD,DHE->BTHE", shape=shape, name=name)
                    for name in ("query", "key", "value")
                ],
            )
        )
        if memory.recent is None:
            return heads, memory
        heads, recent = convolved(heads, memory.recent, tokens)
        return heads, memory._replace(recent=recent)

    @hk.transparent
    def _output(self, fused_BTHE: jax.Array, model: int) -> jax.Array:
        shape = (self.heads, self.features, model)
        out = Projection("BTHE,HED->BTD", shape=shape, scale=self.out_scale, name="output")
        return out(fused_BTHE)

    @hk.transparent
    def _read(
        self,
        x_BTD: jax.Array,
        query: jax.Array,
        key: jax.Array,
        value: jax.Array,
        tokens: Tokens,
        memory: LayerMemory,
    ) -> tuple[dict[str, jax.Array], LayerMemory, dict[str, jax.Array]]:
        """What each tier gives, memory with what reading changes, and the share that was found."""
        config, reads, found = self.config, {}, {}
        long_term = tokens.merged() if config.ltm_scope == "stream" else tokens
        if memory.stm is not None:
            reads["stm"], found["stm"] = read_window(query, tokens, memory.stm)
        if memory.episodic is not None:
            asked, store, slope_H = query, memory.episodic, None
            if config.episodic_recency:
                slope_H = positive("episodic_slope", self.heads, FIRST_SLOPE)
                if self.turn is not None:
                    asked = self.turn(query, tokens.place_BT)
                    turned_BMHE = self.turn(store.key_BMHE, -1 - store.age_BM)
                    store = store._replace(key_BMHE=turned_BMHE)
            reading = read_spread(
                asked, store, tokens.label_BT,
                top_k=config.top_k,
                scale_H=positive("episodic_scale", self.heads, FIRST_SCALE),
                null_H=hk.get_parameter("episodic_nothing", (self.heads,), jnp.float32, jnp.zeros),
                any_label=config.ltm_scope == "stream",
                counts_BT=tokens.counts_BT,
                slope_H=slope_H,
                place_BT=tokens.place_BT,
            )  # fmt: skip
            reads["episodic"], found["episodic"] = reading.read_BTHE, reading.hit_BTH
            store = mark_used(memory.episodic, reading.used_BM)
            memory = memory._replace(episodic=store)
        if memory.recurrent is not None:
            reads["recurrent"], recurrent = read_recurrent(
                x_BTD, query, key, value, long_term, memory.recurrent, form=config.recurrent
            )
            memory = memory._replace(recurrent=recurrent)
        if memory.summaries is not None:
            reads["summaries"], found["summaries"] = read_summaries(
                query, long_term, memory.summaries, chunk=config.chunk
            )
        if memory.mtm is not None:
            assert isinstance(memory.mtm, Matrix)
            reads["mtm"] = read_meta(query, self._task_tokens(tokens), memory.mtm)
        return reads, memory, found

    def _task_tokens(self, tokens: Tokens) -> Tokens:
        return tokens.merged() if self.config.mtm_scope == "stream" else tokens

    @hk.transparent
    def _modulation(
        self, x_BTD: jax.Array, tokens: Tokens, memory: LayerMemory
    ) -> Modulation | None:
        slots = self.config.task_slots
        if slots is None:
            return None
        assert isinstance(memory.mtm, Matrix)
        own = self._task_tokens(tokens)
        return modulation(own, memory.mtm, slots=slots, model=x_BTD.shape[-1], dtype=x_BTD.dtype)

    @hk.transparent
    def _write(
        self,
        memory: LayerMemory,
        pending: Pending | None,
        key_BTHE: jax.Array,
        value_BTHE: jax.Array,
        tokens: Tokens,
    ) -> tuple[LayerMemory, Pending | None]:
        if pending is None:
            whole = Pending(key_BTHE, value_BTHE, tokens.label_BT, tokens.id_BT)
            return self._write_segment(memory, whole), None
        pending = pending.put(key_BTHE, value_BTHE, tokens)
        complete_B = pending.complete()

        def write(memory: LayerMemory, pending: Pending) -> LayerMemory:
            return where_rows(complete_B, self._write_segment(memory, pending), memory)

        def wait(memory: LayerMemory, pending: Pending) -> LayerMemory:
            del pending
            return memory

        # Of the tokens that are decoded one by one, few complete a segment.
        memory = hk.cond(jnp.any(complete_B), write, wait, memory, pending)
        return memory, pending.without(complete_B)

    @hk.transparent
    def _write_segment(self, memory: LayerMemory, segment: Pending) -> LayerMemory:
        config = self.config
        key, value, label_BS, id_BS = segment
        merged_BS = (label_BS > 0).astype(jnp.int32)
        stm, store, recurrent, kept, mtm, recent, convs = memory
        if stm is not None:
            stm = write_window(stm, key, value, label_BS)
        if mtm is not None:
            assert isinstance(mtm, Matrix)
            own_BS = merged_BS if config.mtm_scope == "stream" else label_BS
            mtm = write_meta(mtm, key, value, own_BS, probes=config.task_tokens)
        if kept is not None:
            own_BS = merged_BS if config.ltm_scope == "stream" else label_BS
            kept = write_summaries(kept, key, value, own_BS, chunk=config.chunk)
        if store is not None:
            # A token is new among all that it will be read with.
            if config.ltm_scope == "stream":
                one_BM = (store.label_BM > 0).astype(jnp.int32)
                seen_BS, seen = merged_BS, store._replace(label_BM=one_BM)
            else:
                label_BS, store = _of_last_document(label_BS, store)
                seen_BS, seen = label_BS, store
            if config.consolidate is not None:
                assert recurrent is not None
                recurrent = consolidated(store, recurrent, rows=config.consolidate)
            # Nobody asks how new it is where the newest are kept.
            surprise_BS = jnp.zeros(label_BS.shape)
            if config.needs_novelty:
                surprise_BS = novelty(key, seen_BS, seen)
            store = write_store(
                store, key, value, label_BS, id_BS,
                rows=config.stored_rows, forget=config.forget or "age",
                surprise_BS=surprise_BS,
            )  # fmt: skip
            store = keep_spread(store)
        return LayerMemory(stm, store, recurrent, kept, mtm, recent, convs)

    def _statistics(
        self,
        share_BTHN: jax.Array,
        found: dict[str, jax.Array],
        memory: LayerMemory,
        tokens: Tokens,
    ) -> MemoryStatistics:
        weight_BT = tokens.counts_BT.astype(jnp.float32)
        total = jnp.maximum(jnp.sum(weight_BT), 1.0)

        def mean(x_BTH: jax.Array) -> jax.Array:
            return jnp.sum(jnp.mean(x_BTH, axis=2) * weight_BT) / total

        gates = {
            tier: mean(share_BTHN[..., place]) for place, tier in enumerate(self.config.layer_tiers)
        }
        fill = age = None
        if memory.episodic is not None:
            store = memory.episodic
            held_BM = (store.label_BM > 0).astype(jnp.float32)
            fill = jnp.mean(held_BM)
            old_BM = (store.clock_B[:, None] - store.born_BM).astype(jnp.float32)
            age = jnp.sum(old_BM * held_BM) / jnp.maximum(jnp.sum(held_BM), 1.0)
        hits = {tier: mean(x_BTH) for tier, x_BTH in found.items()}
        return MemoryStatistics(
            gate_stm=gates.get("stm"),
            gate_episodic=gates.get("episodic"),
            gate_recurrent=gates.get("recurrent"),
            gate_summaries=gates.get("summaries"),
            gate_mtm=gates.get("mtm"),
            stm_hits=hits.get("stm"),
            episodic_hits=hits.get("episodic"),
            summary_hits=hits.get("summaries"),
            episodic_fill=fill,
            episodic_age=age,
        )


def _of_last_document(label_BS: jax.Array, store: Store) -> tuple[jax.Array, Store]:
    """Labels and slots of each row's newest document alone; the others are as if never there.

    Nobody reads them again, and what gives way to what must not tell of them either.
    """
    newest_B = last_label(label_BS, label_BS > 0, jnp.max(store.label_BM, axis=1))
    own_BM = store.label_BM == newest_B[:, None]

    def kept(x: jax.Array) -> jax.Array:
        if x.ndim < 2:  # the clock
            return x
        return jnp.where(own_BM.reshape(*own_BM.shape, *(1,) * (x.ndim - 2)), x, 0)

    return jnp.where(label_BS == newest_B[:, None], label_BS, 0), jax.tree.map(kept, store)
