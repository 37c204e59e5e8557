"""A core of layers that is run again and again, each token as often as a policy says.

    x_0 = what the layers before it made of the token;  i = W norm(x_0)
    y   = layers(x_s + i)                                    the same weights at every step
    x_(s+1) = x_s + z_s (y - x_s)                            z_s: see `CopyGate`
    halt, calls, confidence = controller(norm(x_(s+1)), step, price, spent)

With `controller.calls` a step also reads what the modules write that the token called at the end of
the step before, see `rtdlm.models.called`: i becomes i + written.

A token stops after the first step by which half of its halting probability is spent, and is then
read by later tokens as it was when it stopped. It decides by its own state alone, which no later
token has a part in. In training every token's state is followed through all steps, so that every
exit has a loss, but others read it as inference will: states up to a token's own exit are what
inference computes. Elsewhere the tokens that go on are moved together, and a loop runs the layers
on as many tiles of them as there are: a tile reads what the tiles before it wrote, which hold
earlier tokens. In decoding a step that no row needs is skipped.

Axes: B batch, T time, S slots, C tokens of a tile, D model, K steps, M modules to call.
"""

from functools import partial
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp

from rtdlm.config import AGIConfig
from rtdlm.models.block import Block, BlockInput, Stream, remat
from rtdlm.models.cache import LayerCache
from rtdlm.models.called import CLOSED, Called, straight_through
from rtdlm.models.core_state import AllExits, Given, Spent, State, counted, spent
from rtdlm.models.deep import of_chosen
from rtdlm.models.layers import core_plans
from rtdlm.models.norms import make_norm
from rtdlm.modules.attention import Cache, KVCache, Rows, StoppedCache
from rtdlm.modules.controller import ComputeController, CopyGate, stays
from rtdlm.modules.depths import Together, gather, moved_together, part_of
from rtdlm.modules.experts import is_bias
from rtdlm.modules.primitives import Projection

CORE = "decoder/core"
"""Path of its own parameters."""
PRICED = ("fast", "balanced")
"""Strategies with a price, in the order of the parameter that holds its log."""
TILES = 16
"""Of a row, at most. With more of them less is padding, and products of fewer rows are slower."""
LARGE = 4
"""Tiles that are run as one where all of them are full."""
FIRST_PRICES = (0.1, 0.03)
"""Until a run's end finds those that meet the budgets [nats a step]."""


def is_trained(path: str) -> bool:
    """Whether the parameter at `path` follows the gradient of the loss.

    Balancing biases have a rule of their own, and prices are found by `rtdlm.evaluation.pricing`.
    """
    return not (is_bias(path) or path.endswith("core/log_prices"))


class Core(hk.Module):
    """The repeated layers and their controller."""

    def __init__(self, config: AGIConfig, final_norm: Any, name: str = "core") -> None:
        """`final_norm` is what stands before the output table: the policy sees what is told."""
        super().__init__(name=name)
        self._whole = config
        # Among tokens that stop on their own there are no neighbours for a convolution to read.
        self.config = config.replace(short_conv=0, short_conv_places=None)
        self.num_steps = config.controller.steps
        self.final_norm = final_norm
        self._attention = core_plans(config)[0].attention

    @hk.name_like("__call__")
    def price(self) -> jax.Array | None:
        """What a step must save at inference, a float32 scalar; None takes every step."""
        config = self.config
        start = jnp.log(jnp.asarray(FIRST_PRICES))
        logs = hk.get_parameter(
            "log_prices", (len(PRICED),), jnp.float32, lambda *_: start.astype(jnp.float32)
        )
        if config.strategy not in PRICED:
            return None
        if config.controller.price is not None:
            return jnp.float32(config.controller.price)
        return jnp.exp(logs[PRICED.index(config.strategy)])

    @hk.name_like("__call__")
    def all_exits(
        self,
        stream: Stream,
        given: BlockInput,
        price_B: jax.Array,
        *,
        every_B: jax.Array | None = None,
    ) -> AllExits:
        """Every step for every token; others read each as it was when it would have stopped.

        Tokens of the rows of `every_B`, a bool, call all that there is, so that modules learn
        that nobody calls.
        """
        own, (batch, length) = self._given(stream, given), stream.x_BTD.shape[:2]
        own = self._in_places(own, batch, length)
        price_BT = jnp.broadcast_to(price_B[:, None], (batch, length))
        shape = (batch, length, self.config.kv_heads, self.config.head_dim)
        kept = tuple(StoppedCache.empty(*shape, dtype=stream.x_BTD.dtype) for _ in own.blocks)

        def step(carry: tuple[State, Any], number: jax.Array) -> tuple[Any, Any]:
            state, kept = carry
            stopped = _stopped(kept, state.active_BT)
            calling, more = self._with_all_called(own, state, number, every_B)
            x_BTD, after = self._advance(state.x_BTD, more, stopped, number, training=True)
            decided, halt_BT = self._decide(own.controller, x_BTD, calling, number, price_BT)
            told = (x_BTD, halt_BT, decided.confidence_BT, decided.choice_BTM)
            return (decided, after), told

        first = self._first(stream, jnp.ones((batch, length), bool))
        (last, _), told = _scan(step, (first, kept), self.num_steps)
        x_KBTD, halt_KBT, confidence_KBT, choice_KBTM = told
        calls_BT = None if last.calls_BTM is None else jnp.sum(last.calls_BTM, axis=-1)
        return AllExits(
            x_KBTD, halt_KBT, confidence_KBT, last.steps_BT, price_B, choice_KBTM, calls_BT
        )

    @hk.name_like("__call__")
    def read(self, stream: Stream, given: BlockInput) -> tuple[jax.Array, Spent]:
        """Whole rows: what each token's own steps made of it."""
        own, (batch, length) = self._given(stream, given), stream.x_BTD.shape[:2]
        price = self.price()
        shape = (batch, length, self.config.kv_heads, self.config.head_dim)
        kv = tuple(StoppedCache.empty(*shape, dtype=stream.x_BTD.dtype) for _ in own.blocks)
        own = self._in_places(own, batch, length)
        tile = tile_of(length)
        in_tiles = price is not None and tile < length

        def step(carry: tuple[State, Any], number: jax.Array) -> tuple[Any, None]:
            state, kv = carry
            state, more = self._with_called(own, state, number, price, tile=tile)
            if not in_tiles or hk.running_init():
                return self._run_all(state, kv, more, number, price), None
            most = jnp.max(jnp.sum(state.active_BT.astype(jnp.int32), axis=1))
            branches = [
                lambda state, kv: self._run_all(state, kv, more, number, price),
                lambda state, kv: self._run_tiles(state, kv, more, number, price, most=most),
                lambda state, kv: (state, kv),
            ]
            chosen = jnp.where(most == 0, 2, (most <= length - tile).astype(jnp.int32))
            return hk.switch(chosen, branches, state, kv), None

        first = self._first(stream, given.weights_BT > 0)
        unroll = 1 if in_tiles else self.num_steps
        (last, _), _ = _scan(step, (first, kv), self.num_steps, unroll=unroll)
        return last.x_BTD, spent(last)

    @hk.name_like("__call__")
    def extend(
        self, stream: Stream, given: BlockInput, cache: tuple[tuple[KVCache, ...], ...]
    ) -> tuple[jax.Array, Spent, tuple[tuple[KVCache, ...], ...]]:
        """Tokens that continue rows, with the keys and values of every step of earlier ones."""
        own, (batch, length) = self._given(stream, given), stream.x_BTD.shape[:2]
        rows, price = given.rows[self._attention], self.price()
        price_BT = None if price is None else jnp.broadcast_to(price, (batch, length))
        # Tokens that do not count too: what they write is overwritten before it is read.
        state, last, after = self._first(stream, jnp.ones((batch, length), bool)), None, []
        for number in range(self.num_steps):
            kv = cache[number]
            if last is not None:
                kv = _with_stopped(kv, last, rows.positions_BT, state.active_BT)

            def run(state: State, kv: Any, number: int = number) -> tuple[State, Any]:
                slots = kv[0].key_BKES.shape[-1]
                place_BT = jnp.where(state.active_BT, rows.positions_BT, slots)
                step, more = jnp.int32(number), own
                if number > 0:
                    state, more = self._with_called(own, state, step, price, tile=tile_of(length))
                mine = self._with_rows(more, rows._replace(positions_BT=place_BT))
                x_BTD, kv = self._advance(state.x_BTD, mine, kv, step)
                return self._moved_on(own.controller, state, x_BTD, step, price_BT), kv

            if number == 0 or price is None or hk.running_init():
                state, kv = run(state, kv)
            else:
                some = jnp.any(state.active_BT)
                state, kv = hk.cond(some, run, lambda state, kv: (state, kv), state, kv)
            last = [_new_tokens(one, rows.positions_BT) for one in kv]
            after.append(kv)
        return state.x_BTD, spent(state), tuple(after)

    @hk.transparent
    def _given(self, stream: Stream, given: BlockInput) -> Given:
        model, steps = self.config.d_model, self.num_steps
        blocks = tuple(Block(self.config, plan) for plan in core_plans(self._whole))
        gate = CopyGate(num_steps=steps, features=model)
        normed_BTD = make_norm(self.config, "core_norm")(stream.x_BTD)
        inject = Projection("BTD,DE->BTE", shape=(model, model), name="inject")(normed_BTD)
        return Given(
            stream,
            inject,
            gate.opens(normed_BTD),
            given,
            blocks,
            gate,
            ComputeController(num_steps=steps, num_modules=len(self._whole.called)),
            Called.of(self._whole, out_scale=blocks[0].out_scale),
        )

    def _first(self, stream: Stream, active_BT: jax.Array) -> State:
        zeros, count = jnp.zeros(active_BT.shape, jnp.float32), len(self._whole.called)
        first = State(stream.x_BTD, zeros, active_BT, zeros, zeros)
        if not count:
            return first
        shape = (*active_BT.shape, count)
        return first._replace(
            choice_BTM=jnp.full(shape, CLOSED, jnp.float32), calls_BTM=jnp.zeros(shape, jnp.float32)
        )

    @hk.transparent
    def _with_called(
        self, own: Given, state: State, number: jax.Array, price: jax.Array | None, *, tile: int
    ) -> tuple[State, Given]:
        """`state` that counts what active tokens call, and `own` with what is written for them.

        Without a price they call everything, but in the first step, which nobody chose for.
        """
        choice_BTM, ngrams = state.choice_BTM, own.input.ngrams_BTN
        if choice_BTM is None:
            return state, own
        wanted_BTM = choice_BTM > 0 if price is not None else jnp.full(choice_BTM.shape, number > 0)
        on_BTM = wanted_BTM & state.active_BT[..., None]
        if price is None or hk.running_init():
            # Without a loop of as many turns as there are callers: it has a gradient.
            written_BTD = own.called.for_all(state.x_BTD, on_BTM, ngrams)
        else:
            written_BTD = own.called.for_some(state.x_BTD, on_BTM, ngrams, tile=tile)
        return counted(state, on_BTM), own._replace(inject_BTD=own.inject_BTD + written_BTD)

    @hk.transparent
    def _with_all_called(
        self, own: Given, state: State, number: jax.Array, every_B: jax.Array | None
    ) -> tuple[State, Given]:
        """The same in training: everything is written, and gates have gradients."""
        choice_BTM, ngrams = state.choice_BTM, own.input.ngrams_BTN
        if choice_BTM is None:
            return state, own
        on_BTM = choice_BTM > 0
        if every_B is not None:
            on_BTM |= every_B[:, None, None] & (number > 0)
        gate_BTM = straight_through(choice_BTM, on_BTM)
        write = remat(own.called.for_all, self.config.remat)
        written_BTD = write(state.x_BTD, gate_BTM, ngrams)
        on_BTM &= state.active_BT[..., None]
        return counted(state, on_BTM), own._replace(inject_BTD=own.inject_BTD + written_BTD)

    def _in_places(self, own: Given, batch: int, length: int) -> Given:
        """`own`, tokens at their places in the row, whatever documents it holds."""
        place_BT = jnp.broadcast_to(jnp.arange(length)[None], (batch, length))
        rows = own.input.rows[self._attention]
        return self._with_rows(own, rows._replace(positions_BT=place_BT))

    @staticmethod
    def _with_rows(own: Given, rows: Rows) -> Given:
        return own._replace(input=own.input._replace(rows=dict.fromkeys(own.input.rows, rows)))

    @hk.transparent
    def _advance(
        self,
        x_BTD: jax.Array,
        own: Given,
        kv: tuple[Cache, ...],
        number: jax.Array,
        *,
        training: bool = False,
    ) -> tuple[jax.Array, tuple[Any, ...]]:
        """One step of tokens that all run it, and keys and values after it."""
        stream, after = own.stream._replace(x_BTD=x_BTD + own.inject_BTD), []
        for block, cache in zip(own.blocks, kv, strict=True):
            run = remat(block, self.config.remat) if training else block
            stream, left = run(stream, own.input, LayerCache(cache, {}), jnp.asarray(False))
            assert left.cache is not None
            after.append(left.cache.kv)
        return own.gate(x_BTD, stream.x_BTD, own.opens_BTD, number), tuple(after)

    @hk.transparent
    def _decide(
        self,
        controller: ComputeController,
        x_BTD: jax.Array,
        state: State,
        number: jax.Array,
        price_BT: jax.Array,
    ) -> tuple[State, jax.Array]:
        """`state` with who goes on, and the logit of halting."""
        spent_BT = jnp.broadcast_to(
            (number + 1).astype(jnp.float32) / self.num_steps, price_BT.shape
        )
        decision = controller(
            self.final_norm(x_BTD), step=number, price_N=price_BT, spent_N=spent_BT
        )
        log_open_BT, on_BT = stays(state.log_open_BT, decision.halt_N)
        ran_BT = state.active_BT.astype(jnp.float32)
        decided = state._replace(
            x_BTD=x_BTD,
            log_open_BT=log_open_BT,
            active_BT=state.active_BT & on_BT,
            steps_BT=state.steps_BT + ran_BT,
            confidence_BT=decision.confidence_N,
        )
        if state.choice_BTM is not None:
            decided = decided._replace(choice_BTM=decision.choice_NM)
        return decided, decision.halt_N

    @hk.transparent
    def _moved_on(
        self,
        controller: ComputeController,
        state: State,
        x_BTD: jax.Array,
        number: jax.Array,
        price_BT: jax.Array | None,
    ) -> State:
        """`state` after a step in which its active tokens became `x_BTD`."""
        everyone = jnp.ones_like(state.log_open_BT) if price_BT is None else price_BT
        decided, _ = self._decide(controller, x_BTD, state, number, everyone)
        if price_BT is None:
            decided = decided._replace(active_BT=state.active_BT)

        def kept(new: jax.Array, old: jax.Array) -> jax.Array:
            return jnp.where(
                state.active_BT.reshape(*new.shape[:2], *[1] * (new.ndim - 2)), new, old
            )

        return jax.tree.map(kept, decided, state)

    @hk.transparent
    def _run_all(
        self,
        state: State,
        kv: tuple[StoppedCache, ...],
        own: Given,
        number: jax.Array,
        price: jax.Array | None,
    ) -> tuple[State, tuple[StoppedCache, ...]]:
        """One step, where so many tokens are active that all are run."""
        x_BTD, kv = self._advance(state.x_BTD, own, _stopped(kv, state.active_BT), number)
        price_BT = None if price is None else jnp.broadcast_to(price, state.active_BT.shape)
        return self._moved_on(own.controller, state, x_BTD, number, price_BT), kv

    @hk.transparent
    def _run_tiles(
        self,
        state: State,
        kv: tuple[StoppedCache, ...],
        own: Given,
        number: jax.Array,
        price: jax.Array | None,
        *,
        most: jax.Array,
    ) -> tuple[State, tuple[StoppedCache, ...]]:
        """One step of the active tokens, of which a row has at most `most`, tile after tile."""
        length = state.active_BT.shape[1]
        tile = tile_of(length)
        together = moved_together(state.active_BT, -(-length // tile) * tile)
        row_B1 = jnp.arange(len(state.active_BT))[:, None]

        def run(size: int, begin: jax.Array, index: jax.Array, carry: Any) -> Any:
            x_BTD, kv = carry
            chosen = part_of(together, begin + index * size, size)
            short = self._shorter(own, chosen)
            kv = tuple(one._replace(token_BC=chosen.token_BC) for one in kv)
            x_BCD, kv = self._advance(gather(x_BTD, chosen), short, kv, number)
            x_BTD = x_BTD.at[row_B1, chosen.token_BC].set(x_BCD, mode="drop")
            return x_BTD, tuple(one._replace(token_BC=None) for one in kv)

        carry, begin = (state.x_BTD, _stopped(kv, state.active_BT)), jnp.int32(0)
        large = LARGE * tile
        if large < length:  # while they are full: products of more rows are the faster ones
            count = most // large
            carry = hk.fori_loop(jnp.int32(0), count, partial(run, large, begin), carry)
            begin = count * large
        count = -(-(most - begin) // tile)
        carry = hk.fori_loop(jnp.int32(0), count, partial(run, tile, begin), carry)
        x_BTD, kv = carry
        price_BT = None if price is None else jnp.broadcast_to(price, state.active_BT.shape)
        return self._moved_on(own.controller, state, x_BTD, number, price_BT), kv

    def _shorter(self, own: Given, chosen: Together) -> Given:
        """`own`, of the chosen tokens alone."""
        rows = own.input.rows[self._attention]
        mask_BTS = rows.mask_BTS
        assert mask_BTS is not None
        length = mask_BTS.shape[-1]
        token_BC = jnp.minimum(chosen.token_BC, length - 1)
        mask_BCS = jax.vmap(lambda mask_TS, token_C: mask_TS[token_C])(mask_BTS, token_BC)
        mine = Rows(token_BC, mask_BCS)
        input = of_chosen(own.input, chosen, rows={self._attention: mine}, past=None)
        first = own.stream.first_BTKE
        stream = Stream(
            gather(own.stream.x_BTD, chosen), None if first is None else gather(first, chosen)
        )
        return own._replace(
            stream=stream,
            inject_BTD=gather(own.inject_BTD, chosen),
            opens_BTD=gather(own.opens_BTD, chosen),
            input=input,
        )


def tile_of(length: int) -> int:
    """Tokens of a tile, for rows of `length`."""
    return -(-length // TILES)


def _stopped(kv: tuple[StoppedCache, ...], active_BT: jax.Array) -> tuple[StoppedCache, ...]:
    return tuple(one._replace(stopped_BS=~active_BT) for one in kv)


def _scan(step: Any, first: Any, count: int, *, unroll: int = 1) -> tuple[Any, Any]:
    """`hk.scan` over the numbers of steps; at initialisation one step makes all parameters."""
    if hk.running_init():
        state, told = step(first, jnp.int32(0))
        return state, jax.tree.map(lambda x: jnp.broadcast_to(x[None], (count, *x.shape)), told)
    return hk.scan(step, first, jnp.arange(count), unroll=unroll)


def _with_stopped(
    kv: tuple[KVCache, ...],
    last: list[tuple[jax.Array, jax.Array]],
    positions_BT: jax.Array,
    active_BT: jax.Array,
) -> tuple[KVCache, ...]:
    """`kv` of a step with what tokens that have stopped had at the step before."""
    slots = kv[0].key_BKES.shape[-1]
    place_BT = jnp.where(active_BT, slots, positions_BT)
    return tuple(one.write(*own, place_BT) for one, own in zip(kv, last, strict=True))


def _new_tokens(kv: KVCache, positions_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Keys and values `[B, T, K, E]` at the slots of tokens."""
    place = positions_BT[..., None, None]
    key_BTKE = jnp.take_along_axis(kv.key_BSKE, place, axis=1)
    return key_BTKE, jnp.take_along_axis(kv.value_BSKE, place, axis=1)
