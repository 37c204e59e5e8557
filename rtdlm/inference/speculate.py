"""Speculative decoding: a cheap draft proposes tokens, the model checks them all in one call.

    accept d_i ~ q_i with chance min(1, p_i(d_i) / q_i(d_i)), one after another up to the first no;
    there draw from max(p_i - q_i, 0) instead, and after K times yes from p_{K+1}

which leaves exactly the model's own distribution p (arXiv 2211.17192, arXiv 2302.01318). p and q
are what temperature and filters leave of either's logits; a greedy row has all of its chance on one
token, so that it accepts the draft's tokens as long as they are the model's own.

The noise of each decision is a function of the row's key and position, and what came of a position
never depends on noise of later ones: a token that is drafted a second time may use its noise again.

A cache of which every slot is one position needs no rollback: what was rejected is overwritten
before it is read. States and rings are kept as they were, and read the accepted tokens again.

Axes: B batch, K drafted tokens, T = K + 1 tokens of a round, R rounds of a call, V vocabulary,
W words of a key.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rtdlm.inference.decode import CALL_TOKENS, NO_TOKEN, DecodeState
from rtdlm.inference.layout import LayerParams, SplitCache, join_cache, join_params, split_cache
from rtdlm.inference.sampling import Array, Sampler, draw, probabilities
from rtdlm.models import TMSModel
from rtdlm.modules.attention import KVCache

_DRAFT, _ACCEPT, _REPLACE = range(3)
"""What a position's noise is for."""


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


class Proposal(NamedTuple):
    """What the draft would write."""

    tokens_BK: jax.Array
    q_BKV: jax.Array
    """The chances with which it drew each."""
    cache: SplitCache
    """The draft's, that has read all but the last of them."""


class Checked(NamedTuple):
    """What one round writes."""

    tokens_BT: jax.Array
    """int32; the accepted ones, then the model's own, then nothing that means anything."""
    count_B: jax.Array
    """int32; tokens that mean something, 1 to T."""


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
    document_id: int,
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
        document_id: the token that ends a row; it is returned.

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
        count_B = count_written(checked, left_B, document_id=document_id)
        writes_BT = jnp.arange(length)[None] < count_B[:, None]
        written_BT = jnp.where(writes_BT, checked.tokens_BT, NO_TOKEN)
        ended_B = jnp.any(written_BT == document_id, axis=1)
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


def check(p_BTV: jax.Array, proposal: Proposal, sampler: Sampler, position_B: jax.Array) -> Checked:
    """Which of the proposed tokens stay, and the token after them.

    Args:
        p_BTV: the model's chances of the token after each that it read.
        proposal: tokens and the chances they were drawn with.
        sampler: whose keys make the noise.
        position_B: place of the token before the first proposed one.
    """
    drafted_BK, q_BKV = proposal.tokens_BK, proposal.q_BKV
    count = drafted_BK.shape[1]
    place_BKV = jnp.arange(p_BTV.shape[-1])[None, None] == drafted_BK[..., None]
    p_BK, q_BK = (jnp.sum(jnp.where(place_BKV, x, 0.0), axis=-1) for x in (p_BTV[:, :count], q_BKV))
    yes_BK = accepted(p_BK, q_BK, _uniform(_keys(sampler, _ACCEPT), position_B, count))
    stay_B = jnp.sum(jnp.cumprod(yes_BK.astype(jnp.int32), axis=1), axis=1)
    # After the last drafted token nothing was proposed: there q is zero, and what is left is p.
    q_BTV = jnp.pad(q_BKV, ((0, 0), (0, 1), (0, 0)))
    rows_B = jnp.arange(stay_B.shape[0])
    left_BV = leftover(p_BTV[rows_B, stay_B], q_BTV[rows_B, stay_B])
    own_B = draw(left_BV, _keys(sampler, _REPLACE), position_B + 1 + stay_B)
    tokens_BT = jnp.pad(drafted_BK, ((0, 0), (0, 1))).at[rows_B, stay_B].set(own_B)
    return Checked(tokens_BT, stay_B + 1)


def accepted(p_BK: jax.Array, q_BK: jax.Array, uniform_BK: jax.Array) -> jax.Array:
    """bool `[B, K]`: True with chance min(1, p / q); `uniform_BK` is from [0, 1)."""
    return uniform_BK * q_BK < p_BK


def leftover(p_BV: jax.Array, q_BV: jax.Array) -> jax.Array:
    """What a rejected token is replaced from: chances that q gave too little of."""
    left_BV = jnp.maximum(p_BV - q_BV, 0.0)
    # Where p is q but for rounding, nothing may be left.
    some_B1 = jnp.sum(left_BV, axis=-1, keepdims=True) > 0
    return jnp.where(some_B1, left_BV, p_BV)


def count_written(checked: Checked, left_B: jax.Array, *, document_id: int) -> jax.Array:
    """int32 `[B]`: tokens that a row takes: up to its end, and no more than it may."""
    length = checked.tokens_BT.shape[1]
    places_T = jnp.arange(length)
    ends_BT = (checked.tokens_BT == document_id) & (places_T[None] < checked.count_B[:, None])
    end_B = jnp.min(jnp.where(ends_BT, places_T[None] + 1, length), axis=1)
    return jnp.minimum(jnp.minimum(checked.count_B, end_B), left_B)


def rewinds(cache: SplitCache) -> bool:
    """Whether every array of it keeps one position a slot."""
    layers = [layer for loop in cache.loops for rounds in loop for layer in rounds]
    plain = all(isinstance(layer.kv, KVCache) and not layer.convs for layer in layers)
    return plain and cache.input.recent_BJ is None and not cache.input.convs


def _propose(
    pair: Pair, params: PairParams, state: SpeculativeState, sampler: Sampler, count: int
) -> Proposal:
    """Lets the draft write `count` tokens after each row's newest."""
    vocabulary = state.target.seen_BV.shape[1]
    sampler = sampler._replace(key_BW=_keys(sampler, _DRAFT))
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
    if not rewinds(cache):
        _, cache = _extend(
            pair.target, params.target, state.cache, state, read_BT, lengths_B=count_B
        )
    if rewinds(proposal.cache):
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


def _keys(sampler: Sampler, purpose: int) -> Array:
    """`[B, W]`: each row's key for one kind of decision."""

    def fold(words_W: jax.Array) -> jax.Array:
        key = jax.random.wrap_key_data(words_W, impl="threefry2x32")
        return jax.random.key_data(jax.random.fold_in(key, purpose))

    return jax.vmap(fold)(jnp.asarray(sampler.key_BW))


def _uniform(key_BW: Array, position_B: jax.Array, count: int) -> jax.Array:
    """`[B, K]` numbers from [0, 1) of the `count` positions after `position_B`."""

    def one(words_W: jax.Array, position: jax.Array) -> jax.Array:
        key = jax.random.wrap_key_data(words_W, impl="threefry2x32")
        return jax.random.uniform(jax.random.fold_in(key, position))

    positions_BK = position_B[:, None] + 1 + jnp.arange(count)[None]
    per_row = jax.vmap(one, in_axes=(None, 0))
    return jax.vmap(per_row)(jnp.asarray(key_BW), positions_BK)
