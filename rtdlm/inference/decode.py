"""The two compiled functions of generation: reading prompts, and writing several tokens.

    prefill: keys and values of prompt tokens into the cache. Nothing is predicted, so that the
             output table is not read at all.
    decode:  reads each row's newest token, samples the next, and so on for up to `CALL_TOKENS`
             tokens, without going back to Python.

Both own their cache: it is donated and updated in place. Their shapes are static, all else is data.

Axes: B batch, T prompt tokens, N tokens of one call, V the tokenizer's vocabulary.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rtdlm.inference.layout import LayerParams, SplitCache, join_cache, join_params, split_cache
from rtdlm.inference.sampling import Sampler, sample
from rtdlm.models import TMSModel

CALL_TOKENS = 16
NO_TOKEN = -1


class DecodeState(NamedTuple):
    """What a batch carries from call to call."""

    cache: SplitCache
    token_B: jax.Array
    """int32; each row's newest token, which the model has not read."""
    position_B: jax.Array
    """int32; its position."""
    seen_BV: jax.Array
    """bool; tokens that the row holds, those apart that begin or end it."""


class _Loop(NamedTuple):
    state: DecodeState
    left_B: jax.Array
    tokens_BN: jax.Array
    step: jax.Array


def prefill(
    model: TMSModel,
    params: LayerParams,
    cache: SplitCache,
    ids_BT: jax.Array,
    start: jax.Array,
    lengths_B: jax.Array,
) -> SplitCache:
    """The cache after it read `ids_BT` at positions `start`, `start + 1`, ... of every row.

    Row b's first `lengths_B[b]` tokens count, perhaps none; what stands beyond them is padding.
    """
    positions_BT = jnp.broadcast_to(start + jnp.arange(ids_BT.shape[1])[None], ids_BT.shape)
    _, joined = model.extend(
        join_params(params),
        ids_BT,
        positions_BT=positions_BT,
        cache=join_cache(cache),
        lengths_B=lengths_B,
    )
    return split_cache(joined)


def decode(
    model: TMSModel,
    params: LayerParams,
    state: DecodeState,
    sampler: Sampler,
    left_B: jax.Array,
    limit: jax.Array,
    *,
    end_ids: tuple[int, ...],
) -> tuple[DecodeState, jax.Array]:
    """The next tokens of each row, and the state after them.

    Args:
        model: as `decoding_model` gives it.
        params: its parameters, layers apart.
        state: donated by the caller.
        sampler: how each row is sampled.
        left_B: int32; tokens that the row may still get. A row with none stands still.
        limit: int32; tokens of this call, at most `CALL_TOKENS`.
        end_ids: tokens of which any ends a row; it is returned.

    Returns:
        The new state and int32 `[B, CALL_TOKENS]` tokens, `NO_TOKEN` after a row's last.
    """
    tokens_BN = jnp.full((left_B.shape[0], CALL_TOKENS), NO_TOKEN)

    def unfinished(loop: _Loop) -> jax.Array:
        return (loop.step < limit) & jnp.any(loop.left_B > 0)

    def advance(loop: _Loop) -> _Loop:
        state, token_B = _next_token(model, params, loop.state, sampler, loop.left_B > 0)
        written_B = jnp.where(loop.left_B > 0, token_B, NO_TOKEN)
        ended_B = jnp.isin(token_B, np.array(end_ids))
        return _Loop(
            state=state,
            left_B=jnp.where(ended_B, 0, jnp.maximum(loop.left_B - 1, 0)),
            tokens_BN=loop.tokens_BN.at[:, loop.step].set(written_B),
            step=loop.step + 1,
        )

    loop = jax.lax.while_loop(unfinished, advance, _Loop(state, left_B, tokens_BN, jnp.int32(0)))
    return loop.state, loop.tokens_BN


def _next_token(
    model: TMSModel,
    params: LayerParams,
    state: DecodeState,
    sampler: Sampler,
    running_B: jax.Array,
) -> tuple[DecodeState, jax.Array]:
    """The state with one more token in each running row, and these tokens."""
    scores_B1V, joined = model.extend(
        join_params(params),
        state.token_B[:, None],
        positions_BT=state.position_B[:, None],
        cache=join_cache(state.cache),
        # A row that stands still reads its newest token again and again, and moves nothing.
        lengths_B=running_B.astype(jnp.int32),
    )
    # The model's table may have more rows than the tokenizer has tokens.
    logits_BV = scores_B1V[:, 0, : state.seen_BV.shape[1]]
    position_B = state.position_B + running_B.astype(jnp.int32)
    token_B = sample(logits_BV, sampler, position_B=position_B, seen_BV=state.seen_BV)
    token_B = jnp.where(running_B, token_B, state.token_B)
    rows_B = jnp.arange(token_B.shape[0])
    seen_BV = state.seen_BV.at[rows_B, token_B].set(True)
    return DecodeState(split_cache(joined), token_B, position_B, seen_BV), token_B
