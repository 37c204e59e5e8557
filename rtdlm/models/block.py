"""One pre-norm decoder block: x + attention(norm(x)), then x + feedforward(norm(x)).

What either writes may be normalised too before it is added (Gemma 2, arXiv 2408.00118).

With residual gates x is first mixed with what entered the stack, g x + h x0; short convolutions
may stand on either normalised copy and on queries, keys and values; values may be mixed with the
first layer's and with those of the token itself; a graph over the row's tokens and a quantum
circuit may stand behind attention; a parametric memory may read the feed-forward layer's copy and
add to what it writes.

Axes: B batch, T time, S key time, D model, K key-value heads, E head features, N tables.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from rtdlm.config import AGIConfig
from rtdlm.models.cache import LayerCache
from rtdlm.models.convs import Convolutions
from rtdlm.models.layers import LayerPlan
from rtdlm.models.norms import make_head_norm, make_norm
from rtdlm.modules.attention import (
    KINDS,
    AttentionOutput,
    Beside,
    Cache,
    Elsewhere,
    GroupedQueryAttention,
    Heads,
    Rotation,
    Rows,
    SpikeStatistics,
    ValueSources,
    Window,
    rotate,
    rotation,
    with_alibi,
    with_window,
)
from rtdlm.modules.depths import DepthStatistics
from rtdlm.modules.experts import ExpertStatistics, SparseExperts
from rtdlm.modules.feedforward import FEEDFORWARDS
from rtdlm.modules.graph import GraphLayer, GraphOutput, GraphStatistics, Spread
from rtdlm.modules.knowledge import HashedMemory, ProductKeyMemory
from rtdlm.modules.memory import (
    Attended,
    LayerMemory,
    MemoryHeads,
    MemoryLayer,
    MemoryOutput,
    MemoryStatistics,
    Pending,
    ShortTerm,
    TaskMemory,
    Tokens,
    pass_on,
)
from rtdlm.modules.primitives import PRODUCT, Mix, Past, dropout
from rtdlm.modules.quantum import QuantumAttention, QuantumCache, QuantumLayer
from rtdlm.parallel import constrain

DEFAULT_ROPE_BASE = 10_000.0


class Earlier(NamedTuple):
    """Whom the tokens of a call may read over edges."""

    allowed_BTS: jax.Array
    """bool; earlier tokens of the document, and the token itself."""
    place_BT: jax.Array
    """int32; where the tokens themselves stand among the S."""


class BlockInput(NamedTuple):
    """What every layer reads beside the residual stream; made once for the whole stack."""

    rows: Mapping[str, Rows]
    """By the layer's kind of attention."""
    turn: Rotation | None
    weights_BT: jax.Array
    past: Past | None = None
    """For convolutions."""
    start_BTD: jax.Array | None = None
    """What entered the stack, for residual gates."""
    value_BTKE: jax.Array | None = None
    """Values of the token's own."""
    tokens: Tokens | None = None
    """For memory; None where there is none."""
    window_turn: Rotation | None = None
    """Of memory that attention reads; None without any, and without rotation."""
    ngrams_BTN: jax.Array | None = None
    """Rows of a parametric memory's tables that a hash chose."""
    earlier: Earlier | None = None
    """For graphs and overlaps of states; None where there are none."""


class Stream(NamedTuple):
    """What goes from layer to layer."""

    x_BTD: jax.Array
    first_BTKE: jax.Array | None = None
    """Values of the first layer; None without value residuals."""


class BlockOutput(NamedTuple):
    """What a layer leaves behind beside the residual stream."""

    cache: LayerCache | None
    experts: ExpertStatistics | None
    depths: DepthStatistics | None = None
    spikes: SpikeStatistics | None = None
    written_H: jax.Array | None = None
    """See `AttentionOutput`."""
    memory: LayerMemory | None = None
    """What the layer then remembers; None in decoding, where the cache has it."""
    remembered: MemoryStatistics | None = None
    graphs: GraphStatistics | None = None


class Block(hk.Module):
    """Attention, then a dense or sparse feed-forward layer, each on a normalised copy."""

    def __init__(
        self,
        config: AGIConfig,
        plan: LayerPlan,
        *,
        measure_heads: bool = False,
        name: str = "block",
    ) -> None:
        """`measure_heads` leaves behind how much every head writes."""
        super().__init__(name=name)
        self.config = config
        self.plan = plan
        self.measure_heads = measure_heads

    def __call__(
        self,
        stream: Stream,
        given: BlockInput,
        cache: LayerCache | None,
        is_first: jax.Array | None = None,
        memory: LayerMemory | None = None,
    ) -> tuple[Stream, BlockOutput]:
        """The stream after the layer, and the layer's cache and statistics.

        `is_first` is a bool scalar, read only where the stream carries the first layer's values;
        `memory` is of the segments before this one, where there is no cache to hold it.
        """
        config = self.config
        memory = memory if cache is None else cache.memory
        states = None if cache is None else cache.convs
        if self._goes_on:
            assert memory is not None and memory.convs is not None
            states = dict(memory.convs)
        convolve = Convolutions(config, given.past, states)
        x_BTD = stream.x_BTD
        if config.residual_gates:
            assert given.start_BTD is not None
            x_BTD = Mix(initial=(1.0, 0.0), name="residual_mix")(x_BTD, given.start_BTD)
        normed = convolve("attention", make_norm(config, "attention_norm")(x_BTD))
        sources = ValueSources(stream.first_BTKE, is_first, given.value_BTKE)
        kv = None if cache is None else cache.kv
        beside = self._beside(given, cache, memory)
        read = self._attention(normed, given, kv, sources, convolve, memory, beside)
        x_BTD = self._add(x_BTD, read.out_BTD, "attention")
        attended = pending = None
        told: MemoryOutput | None = read.beside
        if self.plan.window:
            attended, pending = self._pass_on(read, given, cache, memory)
        if self.plan.memory and not config.memory.by_attention:
            normed = make_norm(config, "memory_norm")(x_BTD)
            told = self._memory(normed, given, cache, memory)
            assert told.out_BTD is not None
            x_BTD = self._add(x_BTD, told.out_BTD, "memory")
        memory = memory if told is None else told.memory
        graph = None
        if self.plan.graph:
            graph = self._graph(x_BTD, given, cache)
            x_BTD = self._add(x_BTD, graph.out_BTD, "graph")
        circuits = None if cache is None else cache.quantum
        if self.plan.quantum:
            write_BTD, circuits = self._quantum(x_BTD, given, circuits)
            x_BTD = self._add(x_BTD, write_BTD, "quantum")
        normed = convolve("feedforward", make_norm(config, "feedforward_norm")(x_BTD))
        if told is not None and told.modulation is not None:
            normed = told.modulation(normed)
        spread = graph.spread if graph is not None and config.graph.routes else None
        thought, statistics = self._feedforward(normed, given, spread)
        if self.plan.knowledge:
            thought += self._knowledge(normed, given)
        x_BTD = self._add(x_BTD, thought, "feedforward")
        if memory is not None and attended is not None:
            memory = _with_attended(memory, attended)
        if memory is not None and self._goes_on:
            memory = memory._replace(convs=convolve.states)
        left = None
        if read.cache is not None and cache is not None:
            left = cache._replace(kv=read.cache, quantum=circuits)
            left = left if self._goes_on else left._replace(convs=convolve.states)
            left = left if graph is None else left._replace(graph=graph.spread.cache)
            left = left._replace(memory=memory, attended=pending)
            left = left if told is None else left._replace(pending=told.pending)
        out = BlockOutput(left, statistics, spikes=read.spikes, written_H=read.written_H)
        if graph is not None and left is None:
            out = out._replace(graphs=graph.statistics)
        if left is None:
            out = out._replace(memory=memory)
        if told is not None and left is None:
            out = out._replace(remembered=told.statistics)
        return Stream(x_BTD, read.first_BTKE), out

    @property
    def out_scale(self) -> float:
        """Scale of what a layer writes to the stream before training.

        Two writes a layer: their variances add up, so each starts smaller in a deeper stack.
        """
        return 0.0 if self.config.zero_init_outputs else (2 * self.config.num_layers) ** -0.5

    @hk.transparent
    def _add(self, x_BTD: jax.Array, write_BTD: jax.Array, layer: str) -> jax.Array:
        write_BTD = checkpoint_name(write_BTD, f"{layer}_output")
        if self.config.norm_outputs:
            write_BTD = make_norm(self.config, f"{layer}_output_norm")(write_BTD)
        write_BTD = dropout(write_BTD, rate=self.config.dropout_rate)
        return constrain(x_BTD + write_BTD, "batch", "context", None)

    @hk.transparent
    def _attention(
        self,
        x_BTD: jax.Array,
        given: BlockInput,
        cache: Cache | None,
        sources: ValueSources,
        convolve: Convolutions,
        memory: LayerMemory | None,
        beside: Beside | None,
    ) -> AttentionOutput:
        config = self.config
        kind = KINDS[self.plan.attention](config.attention)
        if config.position_encoding == "alibi":
            kind = with_alibi(kind, config.num_heads)
        if self.plan.window:
            assert given.tokens is not None
            tasks = given.tokens
            if config.memory.mtm_scope == "stream":
                tasks = tasks.merged()
            (key_BWKE, value_BWKE, _), may_BTW = self._attended(memory).slots(given.tokens, tasks)
            if given.window_turn is not None:
                key_BWKE = rotate(key_BWKE, given.window_turn)
            kind = with_window(kind, Window(key_BWKE, value_BWKE, may_BTW))
        attention = GroupedQueryAttention(
            num_heads=config.num_heads,
            num_kv_heads=config.kv_heads,
            head_dim=config.head_dim,
            head_norm=partial(make_head_norm, config) if config.qk_norm else None,
            biases=config.biases,
            out_scale=self.out_scale,
            kind=kind,
            measure_heads=self.measure_heads,
        )
        return attention(
            x_BTD,
            rows=given.rows[self.plan.attention],
            turn=given.turn,
            cache=cache,
            sources=sources,
            convolve=convolve,
            beside=beside,
        )

    @hk.transparent
    def _beside(
        self, given: BlockInput, cache: LayerCache | None, memory: LayerMemory | None
    ) -> Beside | None:
        """Reads memory by attention's heads; None where it has its own, or there is none."""
        if not (self.plan.memory and self.config.memory.by_attention):
            return None

        def beside(heads: Heads) -> Elsewhere:
            assert heads.x_BTD is not None
            query, key, value = heads.qkv
            times = query.shape[2] // key.shape[2]
            if times > 1:
                key, value = (jnp.repeat(x, times, axis=2) for x in (key, value))
            own = MemoryHeads(query, key, value)
            told = self._memory(heads.x_BTD, given, cache, memory, own)
            return Elsewhere(told.read_BTHE, told.kept_BTH, told)

        return beside

    @hk.transparent
    def _pass_on(
        self,
        read: AttentionOutput,
        given: BlockInput,
        cache: LayerCache | None,
        memory: LayerMemory | None,
    ) -> tuple[Attended, Pending | None]:
        """What attention reads of memory next, and what waits for the segment's end."""
        assert given.tokens is not None
        assert read.key_BTKE is not None and read.value_BTKE is not None
        attended, config, probes = self._attended(memory), self.config, None
        if attended.mtm is not None:
            probes = TaskMemory(
                tokens=config.memory.task_tokens, heads=config.kv_heads, features=config.head_dim
            )()
        return pass_on(
            attended,
            None if cache is None else cache.attended,
            read.key_BTKE,
            read.value_BTKE,
            given.tokens,
            probes=probes,
            task_scope=config.memory.mtm_scope or "document",
        )

    @property
    def _goes_on(self) -> bool:
        """Convolutions go on from segment to segment, with the window that attention reads."""
        return self.plan.window and self.config.memory.is_attended

    def _attended(self, memory: LayerMemory | None) -> Attended:
        """What attention reads of memory."""
        config = self.config.memory
        assert memory is not None
        assert memory.stm is not None or not config.is_attended
        tasks = memory.mtm if config.attends_tasks else None
        assert tasks is None or isinstance(tasks, ShortTerm)
        return Attended(memory.stm if config.is_attended else None, tasks)

    @hk.transparent
    def _memory(
        self,
        normed_BTD: jax.Array,
        given: BlockInput,
        cache: LayerCache | None,
        memory: LayerMemory | None,
        heads: MemoryHeads | None = None,
    ) -> MemoryOutput:
        config, pending = self.config, None if cache is None else cache.pending
        assert memory is not None and given.tokens is not None
        if self.plan.window:
            memory = _without_attended(memory, self._attended(memory))
        layer = MemoryLayer(
            config.memory,
            heads=config.memory_heads,
            features=config.head_dim,
            out_scale=self.out_scale,
            turn=self._at if config.memory.by_attention and given.turn is not None else None,
        )
        return layer(normed_BTD, given.tokens, memory, pending, heads)

    def _at(self, x_BTHE: jax.Array, positions_BT: jax.Array) -> jax.Array:
        """Heads, rotated to other positions than the call's tokens have."""
        return rotate(x_BTHE, turn_at(self.config, positions_BT))

    @hk.transparent
    def _graph(self, x_BTD: jax.Array, given: BlockInput, cache: LayerCache | None) -> GraphOutput:
        config, earlier = self.config, given.earlier
        assert earlier is not None
        slot_S = jnp.arange(earlier.allowed_BTS.shape[-1])
        others_BTS = slot_S[None, None] != earlier.place_BT[:, :, None]
        layer = GraphLayer(
            config.graph, features=config.graph.width(config.d_model), out_scale=self.out_scale
        )
        return layer(
            make_norm(config, "graph_norm")(x_BTD),
            allowed_BTS=earlier.allowed_BTS & others_BTS,
            positions_BT=earlier.place_BT,
            cache=None if cache is None else cache.graph,
        )

    @hk.transparent
    def _quantum(
        self, x_BTD: jax.Array, given: BlockInput, cache: QuantumCache | None
    ) -> tuple[jax.Array, QuantumCache | None]:
        config, earlier = self.config, given.earlier
        normed = make_norm(config, "quantum_norm")(x_BTD)
        if config.quantum.form == "circuit":
            return QuantumLayer(config.quantum, out_scale=self.out_scale)(normed), None
        assert earlier is not None
        attention = QuantumAttention(
            config.quantum, features=config.head_dim, out_scale=self.out_scale
        )
        return attention(
            normed, allowed_BTS=earlier.allowed_BTS, positions_BT=earlier.place_BT, cache=cache
        )

    @hk.transparent
    def _feedforward(
        self, x_BTD: jax.Array, given: BlockInput, spread: Spread | None
    ) -> tuple[jax.Array, ExpertStatistics | None]:
        config = self.config
        if not self.plan.experts:
            layer = FEEDFORWARDS[config.feedforward](
                d_ff=config.d_ff, out_scale=self.out_scale, bias=config.biases == "all"
            )
            return layer(x_BTD), None
        shared = None
        if config.experts.shared:
            shared = partial(
                FEEDFORWARDS["swiglu"],
                d_ff=config.experts.shared * config.d_ff,
                out_scale=self.out_scale,
                name="shared",
            )
        experts = SparseExperts(
            config.experts, d_ff=config.d_ff, out_scale=self.out_scale, shared=shared
        )
        return experts(x_BTD, weights_BT=given.weights_BT, spread=spread)

    @hk.transparent
    def _knowledge(self, x_BTD: jax.Array, given: BlockInput) -> jax.Array:
        knowledge = self.config.knowledge
        if knowledge.kind == "product_key":
            return ProductKeyMemory(knowledge, out_scale=self.out_scale)(x_BTD)
        assert given.ngrams_BTN is not None
        return HashedMemory(knowledge)(x_BTD, given.ngrams_BTN)


def turn_at(config: AGIConfig, positions_BT: jax.Array) -> Rotation:
    """The rotation of heads at these positions."""
    base = config.rope_base or DEFAULT_ROPE_BASE
    return rotation(positions_BT, head_dim=config.head_dim, base=base, scaling=config.rope)


def _with_attended(memory: LayerMemory, attended: Attended) -> LayerMemory:
    stm, mtm = attended
    memory = memory if stm is None else memory._replace(stm=stm)
    return memory if mtm is None else memory._replace(mtm=mtm)


def _without_attended(memory: LayerMemory, attended: Attended) -> LayerMemory:
    stm, mtm = attended
    memory = memory if stm is None else memory._replace(stm=None)
    return memory._replace(mtm=memory.mtm if mtm is None else None, convs=None)


def remat(function: Any, policy: str) -> Any:
    """`function`, recomputed in the backward pass as `policy` says; see `AGIConfig.remat`."""
    if policy == "none":
        return function
    policies = {
        "full": jax.checkpoint_policies.nothing_saveable,
        "dots": jax.checkpoint_policies.save_only_these_names(PRODUCT),
        "named": jax.checkpoint_policies.save_only_these_names(
            "attention_output", "feedforward_output"
        ),
    }
    return hk.remat(function, policy=policies[policy])
