"""`Generator`: prompts to text, in a batch, streamed while it is written.

    generator = Generator(model, params, tokenizer)
    [completion] = generator.generate(["Once upon a"], SamplingConfig(max_tokens=50))
    for chunk in generator.stream("Once upon a", SamplingConfig.from_preset("creative")):
        print(chunk.text, end="", flush=True)

Each prompt starts as documents do in training, or with what a model from elsewhere begins its texts
with; "" is that alone.
A prompt's text does not depend on what else is in its batch (up to the rounding of matrix products,
which may differ between batch sizes).
"""

import time
from collections.abc import Iterator, Sequence
from functools import partial, wraps
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from rtdlm.config.errors import UserError
from rtdlm.config.sampling import SamplingConfig
from rtdlm.data import Tokenizer
from rtdlm.inference.completion import Completion, Row
from rtdlm.inference.decode import CALL_TOKENS, DecodeState, decode, prefill
from rtdlm.inference.draft import Draft, DraftModel, draft_of
from rtdlm.inference.layout import (
    LayerParams,
    SplitCache,
    decoding_model,
    join_params,
    places,
    split_cache,
    split_params,
    with_memory,
)
from rtdlm.inference.sampling import make_sampler
from rtdlm.inference.speculate import Pair, PairParams, SpeculativeState, speculate
from rtdlm.inference.text import TextStream
from rtdlm.models import TMSModel
from rtdlm.models.memory import MemoryState
from rtdlm.models.tms import Params

PREFILL_TOKENS = 256
"""Prompt tokens a row that are read at one time; bounds the memory of attention scores."""
MIN_PREFILL_TOKENS = 16
MIN_SLOTS = 64
"""Smallest cache: sizes are powers of two from here, so that few programs are compiled."""
CALL_SECONDS = 0.1
"""What a call of the compiled function should take at most, so that text flows."""


class Chunk(NamedTuple):
    """A piece of one row's text; pieces of a row join to its completion's text."""

    row: int
    text: str
    completion: Completion | None = None
    """Comes with the row's last chunk."""


class _Reader(NamedTuple):
    """What reads prompts into a cache."""

    model: TMSModel
    params: LayerParams
    prefill: jax.stages.Wrapped


class Generator:
    """A model with its parameters laid out for decoding, and its compiled functions."""

    def __init__(
        self,
        model: TMSModel,
        params: Params,
        tokenizer: Tokenizer,
        *,
        draft: Draft | None = None,
    ) -> None:
        """Copies the parameters into decoding's layout; those given are not needed any more.

        With a `draft` the text is written speculatively: its distribution is the same, and greedy
        text is the same text.

        Raises:
            UserError: the tokenizer has more tokens than the model's table has rows, or the draft
                does not fit the model.
        """
        if tokenizer.vocab_size > model.config.vocab_size:
            raise UserError(
                f"the tokenizer has {tokenizer.vocab_size} tokens and the model "
                f"vocab_size={model.config.vocab_size}; use the tokenizer it was trained with"
            )
        self.model = decoding_model(model)
        self.tokenizer = tokenizer
        self._place = _whole(jax.tree.leaves(params)[0].sharding)
        self._params = jax.jit(partial(split_params, dtype=self.model.dtype))(params)
        self._prefill = self._compiled(partial(prefill, self.model))
        self._remember = jax.jit(partial(_remember, self.model), out_shardings=self._place)
        self._draft: _Reader | None = None
        if draft is None:
            function: Any = partial(decode, self.model)
        else:
            small, small_params = draft_of(draft, self.model, self._params, tokenizer)
            if isinstance(draft, DraftModel):
                small_params = jax.device_put(small_params, self._place)
            self._draft = _Reader(small, small_params, self._compiled(partial(prefill, small)))
            pair = Pair(self.model, small)
            function = partial(speculate, pair, num_drafted=draft.tokens)
        self._decode = self._compiled(partial(function, end_ids=tokenizer.end_ids))

    def generate(
        self,
        prompts: Sequence[str],
        sampling: SamplingConfig,
        *,
        memory: MemoryState | None = None,
    ) -> list[Completion]:
        """The completion of every prompt, in their order; see `stream`.

        Raises:
            UserError: a prompt is longer than the model reads.
        """
        chunks = self.stream(prompts, sampling, memory=memory)
        done = {chunk.row: chunk.completion for chunk in chunks if chunk.completion is not None}
        return [done[row] for row in range(len(prompts))]

    def stream(
        self,
        prompts: str | Sequence[str],
        sampling: SamplingConfig,
        *,
        memory: MemoryState | None = None,
    ) -> Iterator[Chunk]:
        """Pieces of text as they become certain, all prompts at once.

        A piece holds whole characters and nothing that a stop string may still claim. `memory`, of
        one row, is what every prompt's row remembers before it begins; a draft knows nothing of it.

        Raises:
            UserError: a prompt is longer than the model reads.
        """
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        rows = [self._row(number, text, sampling) for number, text in enumerate(texts)]
        return self._run(rows, sampling, memory) if rows else iter(())

    def remember(self, text: str, memory: MemoryState | None = None) -> MemoryState:
        """What one row remembers after it read `text` as `generate` reads a prompt, and wrote it.

        None remembers nothing before. A text that ends within a segment ends it.
        """
        segment = self.model.config.memory.segment
        assert segment is not None, "a model without memory.segment remembers nothing"
        ids = self.tokenizer.prompt(text)
        # Few lengths, so that few programs are compiled.
        width = segment * _power_of_two(-(-len(ids) // segment), 1)
        ids_1T, own_1T = np.zeros((1, width), np.int32), np.zeros((1, width), np.int32)
        ids_1T[0, : len(ids)], own_1T[0, : len(ids)] = ids, 1
        given = self.model.empty_memory(1) if memory is None else memory
        return self._remember(self._params, given, ids_1T, own_1T)

    def _compiled(self, function: partial) -> jax.stages.Wrapped:
        """`function` of (parameters, own state, ...), the state updated in place."""

        @wraps(function.func)
        def placed(*given: Any) -> Any:
            found = function(*given)
            return jax.lax.with_sharding_constraint(found, places(found, self._place))

        return jax.jit(placed, donate_argnums=1)

    def _row(self, number: int, text: str, sampling: SamplingConfig) -> Row:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise UserError(f"prompt {number} is not UTF-8 text; mend its encoding") from None
        longest, prompt = self.model.config.max_seq_len, self.tokenizer.prompt(text)
        # Read in segments, a text may be of any length: what is older is in memory.
        is_bounded = self.model.config.memory.segment is None
        if is_bounded and len(prompt) > longest:
            raise UserError(
                f"prompt {number} has {len(prompt)} tokens with what begins it and the model "
                f"reads at most max_seq_len={longest}; shorten it by {len(prompt) - longest} tokens"
            )
        # The last token is not read, so that the text may be one token longer than the context.
        left = sampling.max_tokens
        if is_bounded:
            left = min(left, longest + 1 - len(prompt))
        stream = TextStream(self.tokenizer, sampling.stop)
        return Row(prompt, left=left, stream=stream, end_ids=self.tokenizer.end_ids)

    def _run(
        self, rows: list[Row], sampling: SamplingConfig, memory: MemoryState | None
    ) -> Iterator[Chunk]:
        target = self._read(rows, memory)
        state: DecodeState | SpeculativeState = target
        params: LayerParams | PairParams = self._params
        if self._draft is not None:
            state = SpeculativeState(target, self._fill(self._draft, rows))
            params = PairParams(self._params, self._draft.params)
        sampler = make_sampler(sampling, [row.prompt for row in rows])
        sampler, limit = jax.device_put(sampler, self._place), 1
        while any(row.left for row in rows):
            left_B = np.array([row.left for row in rows], np.int32)
            start = time.perf_counter()
            state, tokens = self._decode(params, state, sampler, left_B, np.int32(limit))
            tokens_BCN = np.asarray(tokens).reshape(len(rows), CALL_TOKENS, -1).tolist()
            limit = _next_limit(limit, seconds=time.perf_counter() - start)
            for number, row in enumerate(rows):
                if row.completion is None:
                    text = row.take(tokens_BCN[number])
                    if text or row.completion:
                        yield Chunk(number, text, row.completion)

    def _read(self, rows: list[Row], memory: MemoryState | None = None) -> DecodeState:
        """The state after all tokens of every prompt but the last."""
        cache = self._fill(_Reader(self.model, self._params, self._prefill), rows, memory)
        seen_BV = np.zeros((len(rows), self.tokenizer.vocab_size), np.bool_)
        for number, row in enumerate(rows):
            seen_BV[number, row.prompt] = True
        # They stand between documents: a penalty on them would keep those from ending.
        seen_BV[:, [*self.tokenizer.begin_ids, *self.tokenizer.end_ids]] = False
        newest_B = np.array([row.prompt[-1] for row in rows], np.int32)
        position_B = np.array([len(row.prompt) - 1 for row in rows], np.int32)
        rest = jax.device_put((newest_B, position_B, seen_BV), self._place)
        return DecodeState(cache, *rest)

    def _fill(
        self, reader: _Reader, rows: list[Row], memory: MemoryState | None = None
    ) -> SplitCache:
        """A model's cache after all tokens of every prompt but the last."""
        length_B = np.array([len(row.prompt) for row in rows], np.int32)
        slots = _power_of_two(max(len(row.prompt) + row.left - 1 for row in rows), MIN_SLOTS)
        shapes = jax.eval_shape(lambda: split_cache(reader.model.empty_cache(len(rows), slots)))
        at = places(shapes, self._place)
        cache = jax.tree.map(lambda x, at: jnp.zeros(x.shape, x.dtype, device=at), shapes, at)
        if memory is not None:
            cache = jax.device_put(with_memory(cache, memory, len(rows)), at)
        to_read = int(length_B.max()) - 1
        ids_BT = np.zeros((len(rows), to_read + PREFILL_TOKENS), np.int32)
        for number, row in enumerate(rows):
            ids_BT[number, : len(row.prompt)] = row.prompt
        for start in range(0, to_read, PREFILL_TOKENS):
            width = min(_power_of_two(to_read - start, MIN_PREFILL_TOKENS), PREFILL_TOKENS)
            part_BT = ids_BT[:, start : start + width]
            counted_B = np.clip(length_B - 1 - start, 0, width)
            cache = reader.prefill(reader.params, cache, part_BT, np.int32(start), counted_B)
        return cache


def _remember(
    model: TMSModel,
    params: LayerParams,
    memory: MemoryState,
    ids_BT: jax.Array,
    segment_ids_BT: jax.Array,
) -> MemoryState:
    return model.read(join_params(params), ids_BT, segment_ids_BT=segment_ids_BT, memory=memory)[1]


def _whole(sharding: Sharding) -> Sharding:
    """Where arrays go that are not split: the device of the parameters, or all of their mesh."""
    if isinstance(sharding, NamedSharding):
        return NamedSharding(sharding.mesh, PartitionSpec())
    return SingleDeviceSharding(next(iter(sharding.device_set)))


def _next_limit(limit: int, *, seconds: float) -> int:
    """Tokens of the next call, after one with `limit` tokens that took `seconds`."""
    if seconds > CALL_SECONDS:
        return max(limit // 2, 1)
    return min(2 * limit, CALL_TOKENS) if seconds < CALL_SECONDS / 2 else limit


def _power_of_two(size: int, least: int) -> int:
    """The smallest power of two that is at least `size` and at least `least`, one itself."""
    return max(least, 1 << (size - 1).bit_length())
