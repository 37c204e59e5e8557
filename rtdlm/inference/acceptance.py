"""Which drafted tokens a model takes, so that its text has the distribution of its own.

    accept d_i ~ q_i with chance min(1, p_i(d_i) / q_i(d_i)), one after another up to the first no;
    there draw from max(p_i - q_i, 0) instead, and after K times yes from p_{K+1}

which leaves exactly the model's own distribution p (arXiv 2211.17192, arXiv 2302.01318). p and q
are what temperature and filters leave of either's logits; a greedy row has all of its chance on one
token, so that it accepts the draft's tokens as long as they are the model's own.

The noise of each decision is a function of the row's key and position, and what came of a position
never depends on noise of later ones: a token that is drafted a second time may use its noise again.

Axes: B batch, K drafted tokens, T = K + 1 tokens of a round, V vocabulary, W words of a key.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rtdlm.inference.layout import SplitCache
from rtdlm.inference.sampling import Array, Sampler, draw

DRAFT, ACCEPT, REPLACE = range(3)
"""What a position's noise is for."""


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
    yes_BK = accepted(p_BK, q_BK, _uniform(keys_for(sampler, ACCEPT), position_B, count))
    stay_B = jnp.sum(jnp.cumprod(yes_BK.astype(jnp.int32), axis=1), axis=1)
    # After the last drafted token nothing was proposed: there q is zero, and what is left is p.
    q_BTV = jnp.pad(q_BKV, ((0, 0), (0, 1), (0, 0)))
    rows_B = jnp.arange(stay_B.shape[0])
    left_BV = leftover(p_BTV[rows_B, stay_B], q_BTV[rows_B, stay_B])
    own_B = draw(left_BV, keys_for(sampler, REPLACE), position_B + 1 + stay_B)
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


def count_written(checked: Checked, left_B: jax.Array, *, end_ids: tuple[int, ...]) -> jax.Array:
    """int32 `[B]`: tokens that a row takes: up to its end, and no more than it may."""
    length = checked.tokens_BT.shape[1]
    places_T = jnp.arange(length)
    is_end_BT = jnp.isin(checked.tokens_BT, np.array(end_ids))
    ends_BT = is_end_BT & (places_T[None] < checked.count_B[:, None])
    end_B = jnp.min(jnp.where(ends_BT, places_T[None] + 1, length), axis=1)
    return jnp.minimum(jnp.minimum(checked.count_B, end_B), left_B)


def keys_for(sampler: Sampler, purpose: int) -> Array:
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
