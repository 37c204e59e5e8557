"""Speculative decoding: a cheap draft proposes tokens, the model checks them all in one call.

Which tokens stay leaves exactly the model's own distribution: see `acceptance`.

A cache of which every slot is one position needs no rollback: what was rejected is overwritten
before it is read. States and rings are kept as they were, and read the accepted tokens again.

Axes: B batch, K drafted tokens, T = K + 1 tokens of a round, R rounds of a call, V vocabulary,
W words of a key.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rtdlm.inference.acceptance import DRAFT, Proposal, check, count_written, keys_for
from rtdlm.inference.decode import CALL_TOKENS, NO_TOKEN, DecodeState
from rtdlm.inference.layout import LayerParams, SplitCache, join_cache, join_params, split_cache
from rtdlm.inference.sampling import Sampler, draw, probabilities
from rtdlm.models import TMSModel
from rtdlm.modules.attention import KVCache


class SpeculativeState(NamedTuple):
    """What a batch carries from call to call."""

    target: DecodeState
    draft: SplitCache
    """Of the same tokens as the target's cache."""


class Pair(NamedTuple):
    """The model and its draft; or the parameters of both."""

    target: TMSModel
    draft: TMSModel


class PairParams(NamedTuple):
    """Parameters of a `Pair`."""

    target: LayerParams
    draft: LayerParams


class _Loop(NamedTuple):
    state: SpeculativeState
    left_B: jax.Array
    tokens_BRT: jax.Array
    round: jax.Array


def speculate(
    pair: Pair,
    params: PairParams,
    state: SpeculativeState,
    sampler: Sampler,
    left_B: jax.Array,
    limit: jax.Array,
    *,
    num_drafted: int,
    end_ids: tuple[int, ...],
) -> tuple[SpeculativeState, jax.Array]:
    """The next tokens of each row, and the state after them; see `decode`, whose text it writes.

    Args:
        pair: as `decoding_model` gives both.
        params: theirs, layers apart.
        state: donated by the caller.
        sampler: how each row is sampled.
        left_B: int32; tokens that the row may still get. A row with none stands still.
        limit: int32; rounds of this call, at most `CALL_TOKENS`.
        num_drafted: tokens that the draft proposes a round, at least 1.
        end_ids: tokens of which any ends a row; it is returned.

    Returns:
        The new state and int32 `[B, CALL_TOKENS, T]` tokens by round, `NO_TOKEN` after a row's
        last of a round.
    """
    length = num_drafted + 1
    tokens_BRT = jnp.full((left_B.shape[0], CALL_TOKENS, length), NO_TOKEN)

    def unfinished(loop: _Loop) -> jax.Array:
        return (loop.round < limit) & jnp.any(loop.left_B > 0)

    def advance(loop: _Loop) -> _Loop:
        state, left_B = loop.state, loop.left_B
        proposal = _propose(pair, params, state, sampler, num_drafted)
        read_BT = jnp.concatenate([state.target.token_B[:, None], proposal.tokens_BK], axis=1)
        p_BTV, cache = _target(pair, params, state.target, read_BT, sampler)
        checked = check(p_BTV, proposal, sampler, state.target.position_B)
        count_B = count_written(checked, left_B, end_ids=end_ids)
        writes_BT = jnp.arange(length)[None] < count_B[:, None]
        written_BT = jnp.where(writes_BT, checked.tokens_BT, NO_TOKEN)
        ended_B = jnp.any(jnp.isin(written_BT, np.array(end_ids)), axis=1)
        caches = _settled(pair, params, state, proposal, cache, read_BT, count_B)
        return _Loop(
            state=SpeculativeState(_moved(state.target, caches[0], written_BT, count_B), caches[1]),
            left_B=jnp.where(ended_B, 0, left_B - count_B),
            tokens_BRT=loop.tokens_BRT.at[:, loop.round].set(written_BT),
            round=loop.round + 1,
        )

    start = _Loop(state, left_B, tokens_BRT, jnp.int32(0))
    loop = jax.lax.while_loop(unfinished, advance, start)
    return loop.state, loop.tokens_BRT


def rewinds(model: TMSModel, cache: SplitCache) -> bool:
    """Whether every array of the model's cache keeps one position a slot, for good."""
    if model.config.memory.segment is not None:  # a new segment takes the slots of the last
        return False
    layers = [layer for loop in cache.loops for rounds in loop for layer in rounds]
    plain = all(isinstance(layer.kv, KVCache) and not layer.convs for layer in layers)
    return plain and cache.input.recent_BJ is None and not cache.input.convs


def _propose(
    pair: Pair, params: PairParams, state: SpeculativeState, sampler: Sampler, count: int
) -> Proposal:
    """Lets the draft write `count` tokens after each row's newest."""
    vocabulary = state.target.seen_BV.shape[1]
    sampler = sampler._replace(key_BW=keys_for(sampler, DRAFT))
    rows_B = jnp.arange(state.target.token_B.shape[0])

    def step(
        carry: tuple[SplitCache, jax.Array, jax.Array], back: jax.Array
    ) -> tuple[tuple[SplitCache, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
        cache, token_B, seen_BV = carry
        position_B = state.target.position_B + back
        scores_B1V, joined = pair.draft.extend(
            join_params(params.draft),
            token_B[:, None],
            positions_BT=position_B[:, None],
            cache=join_cache(cache),
        )
        q_BV = probabilities(scores_B1V[:, 0, :vocabulary], sampler, seen_BV=seen_BV)
        token_B = draw(q_BV, sampler.key_BW, position_B + 1)
        seen_BV = seen_BV.at[rows_B, token_B].set(True)
        return (split_cache(joined), token_B, seen_BV), (token_B, q_BV)

    start = (state.draft, state.target.token_B, state.target.seen_BV)
    (cache, _, _), (token_KB, q_KBV) = jax.lax.scan(step, start, jnp.arange(count))
    return Proposal(jnp.swapaxes(token_KB, 0, 1), jnp.swapaxes(q_KBV, 0, 1), cache)


def _target(
    pair: Pair, params: PairParams, state: DecodeState, read_BT: jax.Array, sampler: Sampler
) -> tuple[jax.Array, SplitCache]:
    """The model's chances `[B, T, V]` after each token of `read_BT`, and its cache of all."""
    batch, length = read_BT.shape
    vocabulary = state.seen_BV.shape[1]
    scores_BTV, joined = _extend(pair.target, params.target, state.cache, state, read_BT)
    new_BTV = jnp.arange(vocabulary)[None, None] == read_BT[..., None]
    # The row's newest token is seen already, and what is drafted is once it is read.
    new_BTV = new_BTV & (jnp.arange(length) > 0)[None, :, None]
    seen_BTV = state.seen_BV[:, None] | (jnp.cumsum(new_BTV.astype(jnp.int32), axis=1) > 0)
    each = jax.tree.map(lambda x: jnp.repeat(jnp.asarray(x), length, axis=0), sampler)
    p_NV = probabilities(
        scores_BTV[..., :vocabulary].reshape(batch * length, vocabulary),
        each,
        seen_BV=seen_BTV.reshape(batch * length, vocabulary),
    )
    return p_NV.reshape(batch, length, vocabulary), joined


def _settled(
    pair: Pair,
    params: PairParams,
    before: SpeculativeState,
    proposal: Proposal,
    cache: SplitCache,
    read_BT: jax.Array,
    count_B: jax.Array,
) -> tuple[SplitCache, SplitCache]:
    """Both caches with each row's first `count_B` tokens of `read_BT`, and no other."""
    state = before.target
    if not rewinds(pair.target, cache):
        _, cache = _extend(
            pair.target, params.target, state.cache, state, read_BT, lengths_B=count_B
        )
    if rewinds(pair.draft, proposal.cache):
        # Of the tokens that stay it lacks at most the last drafted one.
        last = read_BT.shape[1] - 1
        ahead = state._replace(position_B=state.position_B + last)
        _, draft = _extend(pair.draft, params.draft, proposal.cache, ahead, read_BT[:, last:])
    else:
        _, draft = _extend(
            pair.draft, params.draft, before.draft, state, read_BT, lengths_B=count_B
        )
    return cache, draft


def _extend(
    model: TMSModel,
    params: LayerParams,
    cache: SplitCache,
    state: DecodeState,
    read_BT: jax.Array,
    *,
    lengths_B: jax.Array | None = None,
) -> tuple[jax.Array, SplitCache]:
    positions_BT = state.position_B[:, None] + jnp.arange(read_BT.shape[1])[None]
    scores_BTV, joined = model.extend(
        join_params(params),
        read_BT,
        positions_BT=positions_BT,
        cache=join_cache(cache),
        lengths_B=lengths_B,
    )
    return scores_BTV, split_cache(joined)


def _moved(
    state: DecodeState, cache: SplitCache, written_BT: jax.Array, count_B: jax.Array
) -> DecodeState:
    """The state after the first `count_B` tokens of `written_BT`, which are `NO_TOKEN` beyond."""
    rows_B = jnp.arange(count_B.shape[0])
    token_B = jnp.where(count_B > 0, written_BT[rows_B, count_B - 1], state.token_B)
    vocabulary = state.seen_BV.shape[1]
    new_BTV = jnp.arange(vocabulary)[None, None] == written_BT[..., None]
    seen_BV = state.seen_BV | jnp.any(new_BTV, axis=1)
    return DecodeState(cache, token_B, state.position_B + count_B, seen_BV)
