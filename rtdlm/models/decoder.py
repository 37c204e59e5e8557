"""The decoder: embedding, a stack of blocks, a norm and an output table.

Axes: B batch, T time, S cache slots, D model, L layers, V vocabulary.
"""

import haiku as hk
import jax
import jax.numpy as jnp

from rtdlm.config import AGIConfig
from rtdlm.models.block import Block, BlockInput, Earlier, Stream, remat, turn_at
from rtdlm.models.cache import DecodeCache, LayerCache
from rtdlm.models.contracts import call_costs
from rtdlm.models.core import Core
from rtdlm.models.deep import run_deep
from rtdlm.models.embed import Embedded, embed, embedding_std
from rtdlm.models.exits import exit_losses
from rtdlm.models.layers import Segment, layer_plans, segments
from rtdlm.models.memory import MemoryState
from rtdlm.models.norms import make_norm
from rtdlm.models.passing import Features, Loop, Reading, Scores, of_all_layers
from rtdlm.modules import head
from rtdlm.modules.attention import KINDS, Kind, cache_mask, causal_mask
from rtdlm.modules.controller import sample_prices
from rtdlm.modules.memory import LayerMemory, Tokens, continued
from rtdlm.modules.primitives import Past, packed_past


class Decoder(hk.Module):
    """The model as one Haiku module, with one method for each use of it."""

    def __init__(
        self,
        config: AGIConfig,
        *,
        dtype: jnp.dtype,
        measure_heads: bool = False,
        name: str = "decoder",
    ) -> None:
        """`dtype` is that of activations; parameters are float32 and cast where they are used.

        `measure_heads` is for `written`.
        """
        super().__init__(name=name)
        self.config = config
        self.dtype = dtype
        self.measure_heads = measure_heads

    @property
    def _kinds(self) -> dict[str, Kind]:
        """The kinds of attention that the model's layers have."""
        names = dict.fromkeys(plan.attention for plan in layer_plans(self.config))
        return {name: KINDS[name](self.config.attention) for name in names}

    @hk.name_like("__call__")
    def logits(
        self,
        ids_BT: jax.Array,
        *,
        positions_BT: jax.Array,
        segment_ids_BT: jax.Array,
        memory: MemoryState | None = None,
    ) -> tuple[jax.Array, MemoryState | None]:
        """Float32 logits `[B, T, V]` of the token after each position, and what is remembered.

        With `memory` the rows are a segment that follows what it is of.
        """
        features = self._rows(ids_BT, positions_BT, segment_ids_BT, memory=memory)
        scores = head.logits(features.x_BTD, features.table_VD, cap=self.config.logit_soft_cap)
        return scores, features.memory

    @hk.name_like("__call__")
    def scores(
        self,
        ids_BT: jax.Array,
        labels_BT: jax.Array,
        *,
        positions_BT: jax.Array,
        segment_ids_BT: jax.Array,
        terms: head.LossTerms | None,
        memory: MemoryState | None = None,
    ) -> Scores:
        """Statistics of every token against its label, without keeping the logits.

        With `memory` the rows are a segment that follows what it is of.
        """
        training = terms is not None
        features = self._rows(
            ids_BT, positions_BT, segment_ids_BT, training=training, memory=memory
        )
        given = (features.x_BTD, features.table_VD, labels_BT)
        cap, chunk_size = self.config.logit_soft_cap, self.config.loss.chunk_size
        if terms is None:
            tokens = head.token_statistics(*given, cap=cap, chunk_size=chunk_size)
            return Scores(tokens, None, **features.statistics)
        if features.exits is not None:
            found = exit_losses(
                features.exits,
                features.table_VD,
                labels_BT,
                terms,
                even=self.config.controller.even,
                costs=call_costs(self.config),
                cap=cap,
                chunk_size=chunk_size,
            )
            told = features._replace(pondered=found.pondered).statistics
            return Scores(found.tokens, found.objective, **told)
        loss = head.token_loss(*given, terms, cap=cap, chunk_size=chunk_size)
        return Scores(loss.tokens, loss.objective, **features.statistics)

    @hk.name_like("__call__")
    def written(
        self, ids_BT: jax.Array, *, positions_BT: jax.Array, segment_ids_BT: jax.Array
    ) -> jax.Array:
        """`[L, H]`: the squared length of what each head writes, summed over tokens; float32."""
        assert self.measure_heads
        written_LH = self._rows(ids_BT, positions_BT, segment_ids_BT).written_LH
        assert written_LH is not None
        return written_LH

    @hk.name_like("__call__")
    def extend(
        self,
        ids_BT: jax.Array,
        *,
        positions_BT: jax.Array,
        cache: DecodeCache,
        lengths_B: jax.Array | None,
    ) -> tuple[jax.Array, DecodeCache]:
        """Logits `[B, T, V]` of T more tokens a row, and the longer cache.

        Args:
            ids_BT: tokens that continue each row.
            positions_BT: their positions, which follow what the cache holds.
            cache: what was read so far.
            lengths_B: int32 tokens of each row that count, the first ones; None is all of them.

        With memory these are tokens of one segment a row, and positions are within it.
        """
        batch, length = ids_BT.shape
        if lengths_B is None:
            lengths_B = jnp.full((batch,), length, jnp.int32)
        caches = {
            plan.attention: layer.kv
            for segment, loop in zip(segments(self.config), cache.loops, strict=True)
            for plan, layer in zip(segment.round, loop, strict=True)
        }
        reading = Reading(
            positions_BT=positions_BT,
            rows={
                name: kind.continued(positions_BT, lengths_B, caches[name])
                for name, kind in self._kinds.items()
            },
            weights_BT=jnp.ones(ids_BT.shape, jnp.float32),
            past=Past(None, lengths_B),
            cache=cache,
            earlier=self._earlier_slots(positions_BT, cache),
            tokens=self._tokens(
                ids_BT,
                jnp.ones_like(ids_BT),
                jnp.arange(length)[None] < lengths_B[:, None],
                positions_BT,
            ),
        )
        features = self._features(ids_BT, reading)
        scores = head.logits(features.x_BTD, features.table_VD, cap=self.config.logit_soft_cap)
        assert features.cache is not None
        return scores, features.cache

    def _tokens(
        self, ids_BT: jax.Array, label_BT: jax.Array, counts_BT: jax.Array, place_BT: jax.Array
    ) -> Tokens | None:
        if not self.config.memory.has_tiers:
            return None
        return Tokens(label_BT, counts_BT, ids_BT, place_BT)

    def _earlier_slots(self, positions_BT: jax.Array, cache: DecodeCache) -> Earlier | None:
        """Slots up to each token's own."""
        layers = [layer for loop in cache.loops for layer in loop]
        kept = [layer.graph.key_BSRE for layer in layers if layer.graph is not None]
        kept += [layer.quantum.state_BSHP for layer in layers if layer.quantum is not None]
        if not kept:
            return None
        return Earlier(cache_mask(positions_BT, slots=kept[0].shape[2]), positions_BT)

    def _earlier_tokens(self, segment_ids_BT: jax.Array, place_BT: jax.Array) -> Earlier | None:
        """Tokens of the row before each one, in its document."""
        config = self.config
        overlaps = config.quantum_layers > 0 and config.quantum.form == "attention"
        if not (config.graph.hops or overlaps):
            return None
        return Earlier(causal_mask(segment_ids_BT), place_BT)

    @hk.transparent
    def _rows(
        self,
        ids_BT: jax.Array,
        positions_BT: jax.Array,
        segment_ids_BT: jax.Array,
        *,
        training: bool = False,
        memory: MemoryState | None = None,
    ) -> Features:
        config = self.config
        place_BT = jnp.broadcast_to(jnp.arange(ids_BT.shape[1])[None], ids_BT.shape)
        tokens = self._tokens(ids_BT, segment_ids_BT, segment_ids_BT > 0, place_BT)
        past = packed_past(segment_ids_BT, reach=config.reach) if config.reach > 0 else None
        if memory is not None and memory.input is not None:
            assert tokens is not None
            before = jax.tree.map(lambda x: x[0], memory.input)
            past, label_BJ = continued(tokens, before.label_BJ)
            memory = memory._replace(input=before._replace(label_BJ=label_BJ))
        reading = Reading(
            positions_BT=positions_BT,
            rows={
                name: kind.packed(positions_BT, segment_ids_BT)
                for name, kind in self._kinds.items()
            },
            weights_BT=(segment_ids_BT > 0).astype(jnp.float32),
            past=past,
            cache=None,
            training=training,
            tokens=tokens,
            memory=memory,
            earlier=self._earlier_tokens(segment_ids_BT, place_BT),
        )
        return self._features(ids_BT, reading)

    @hk.transparent
    def _features(self, ids_BT: jax.Array, reading: Reading) -> Features:
        config, cache = self.config, reading.cache
        embedding_VD, output_VD = self._tables()
        before = None if reading.memory is None else reading.memory.input
        own = None if before is None else before.cache
        embedded = embed(
            config,
            ids_BT,
            embedding_VD,
            positions_BT=reading.positions_BT,
            past=reading.past,
            cache=own if cache is None else cache.input,
            dtype=self.dtype,
        )
        stream, given, loops = self._stack(embedded, reading)
        norm, core_cache, exits, spent = make_norm(config, "final_norm"), None, None, None
        if config.use_compute_controller:
            core = Core(config, norm)
            if cache is not None:
                assert cache.core is not None
                x_BTD, spent, core_cache = core.extend(stream, given, cache.core)
            elif reading.training:
                price_B, every_B = self._prices(ids_BT.shape[0])
                ran = core.all_exits(stream, given, price_B, every_B=every_B)
                exits, x_BTD = ran._replace(x_KBTD=norm(ran.x_KBTD)), ran.x_KBTD[-1]
            else:
                x_BTD, spent = core.read(stream, given)
        else:
            x_BTD = stream.x_BTD
        x_BTD = norm(x_BTD)
        kinds = ("experts", "depths", "spikes", "remembered", "graphs")
        experts, depths, spikes, remembered, graphs = (of_all_layers(loops, what) for what in kinds)
        if cache is None:
            written_LH = of_all_layers(loops, "written_H")
            after = None
            if reading.memory is not None:
                after = MemoryState(tuple(tuple(left.memory for left in loop) for loop in loops))
                if before is not None:
                    assert embedded.cache is not None
                    before = before._replace(cache=embedded.cache)
                    after = after._replace(input=jax.tree.map(lambda x: x[None], before))
            return Features(
                x_BTD,
                output_VD,
                experts,
                depths,
                None,
                spikes,
                written_LH,
                after,
                remembered,
                graphs,
                spent,
                exits,
            )
        caches = [tuple(left.cache for left in loop if left.cache is not None) for loop in loops]
        assert embedded.cache is not None
        cache = DecodeCache(tuple(caches), embedded.cache, core_cache)
        return Features(x_BTD, output_VD, experts, depths, cache, spent=spent)

    @hk.transparent
    def _prices(self, rows: int) -> tuple[jax.Array, jax.Array | None]:
        """A price for every row, and which rows call everything.

        Without a key the prices are the middle of their range, and no row does.
        """
        controller = self.config.controller
        low, high = controller.prices
        key = hk.maybe_next_rng_key()
        if key is None:
            return jnp.full((rows,), (low * high) ** 0.5, jnp.float32), None
        price_B = sample_prices(key, (rows,), low=low, high=high)
        if not controller.called:
            return price_B, None
        return price_B, jax.random.bernoulli(hk.next_rng_key(), controller.even, (rows,))

    @hk.transparent
    def _tables(self) -> tuple[jax.Array, jax.Array]:
        config = self.config
        shape = (config.vocab_size, config.d_model)
        spread = hk.initializers.RandomNormal(embedding_std(config))
        embedding = hk.get_parameter("embedding", shape, jnp.float32, spread)
        if config.tie_embeddings:
            return embedding, embedding
        spread = hk.initializers.RandomNormal(config.d_model**-0.5)
        return embedding, hk.get_parameter("output", shape, jnp.float32, spread)

    @hk.transparent
    def _stack(self, embedded: Embedded, reading: Reading) -> tuple[Stream, BlockInput, list[Loop]]:
        """The stream after all layers of loops, what they read, and what each left behind."""
        config, x_BTD = self.config, embedded.x_BTD
        turn, window_turn, first_BTKE = None, None, None
        if config.position_encoding == "rope":
            turn = turn_at(config, reading.positions_BT)
            if config.memory.attended_slots:
                before_1W = jnp.arange(-config.memory.attended_slots, 0)[None]
                window_turn = turn_at(config, before_1W)
        if config.value_residual:
            shape = (*x_BTD.shape[:2], config.kv_heads, config.head_dim)
            first_BTKE = jnp.zeros(shape, x_BTD.dtype)
        given = BlockInput(
            rows=reading.rows,
            turn=turn,
            weights_BT=reading.weights_BT,
            past=reading.past,
            start_BTD=x_BTD if config.residual_gates else None,
            value_BTKE=embedded.value_BTKE,
            tokens=reading.tokens,
            window_turn=window_turn,
            ngrams_BTN=embedded.ngrams_BTN,
            earlier=reading.earlier,
        )

        stream, loops = Stream(x_BTD, first_BTKE), []
        for number, segment in enumerate(segments(config)):
            caches = None if reading.cache is None else reading.cache.loops[number]
            memories = None if reading.memory is None else reading.memory.loops[number]
            stream, left = self._loop(
                segment,
                stream,
                given,
                caches,
                memories,
                is_first=number == 0,
                training=reading.training,
            )
            loops.append(left)
        return stream, given, loops

    @hk.transparent
    def _loop(
        self,
        segment: Segment,
        stream: Stream,
        given: BlockInput,
        caches: tuple[LayerCache, ...] | None,
        memories: tuple[LayerMemory | None, ...] | None,
        *,
        is_first: bool,
        training: bool,
    ) -> tuple[Stream, Loop]:
        """Runs one loop of layers; `is_first` says whether the model begins with it."""
        config, size = self.config, len(segment.round)
        first_RP = None
        if config.value_residual:
            place_RP = jnp.arange(segment.repeats * size).reshape(segment.repeats, size)
            first_RP = (place_RP == 0) & is_first

        def run(
            stream: Stream,
            caches: tuple[LayerCache, ...] | None,
            memories: tuple[LayerMemory | None, ...] | None,
            first_P: jax.Array | None,
        ) -> tuple[Stream, Loop]:
            left = []
            for place, plan in enumerate(segment.round):
                block = Block(config, plan, measure_heads=self.measure_heads)
                cache = None if caches is None else caches[place]
                first = None if first_P is None else first_P[place]
                if plan.depth:
                    stream, out = run_deep(
                        block, config, plan, stream, given, cache, first, training=training
                    )
                    left.append(out)
                    continue
                memory = None if memories is None else memories[place]
                stream, out = remat(block, config.remat)(stream, given, cache, first, memory)
                left.append(out)
            return stream, tuple(left)

        stack = hk.layer_stack(
            segment.repeats,
            with_per_layer_inputs=True,
            unroll=max(1, min(config.unroll // size, segment.repeats)),
            name="layers",
        )
        found: tuple[Stream, Loop] = stack(run)(stream, caches, memories, first_RP)
        return found
