"""Logits to the next token of every row: penalty, temperature, filters, one draw.

    p = softmax(filtered(penalised(logits) / temperature));   token = argmax(log p + Gumbel noise)

The filters need no sort. A set of the likeliest tokens is all those above a threshold, and the
threshold with a wanted weight above it is found bit by bit: 32 sums over the vocabulary. Equal
logits are kept or dropped together.

What differs between requests is an array of `Sampler`, so that no change of it compiles anew. A
row's noise depends on its own key and position alone, never on its neighbours.

Axes: B batch, V vocabulary, W words of a key.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rtdlm.config.sampling import SamplingConfig

Array = jax.Array | np.ndarray


class Sampler(NamedTuple):
    """How each row is sampled."""

    repetition_penalty_B: Array
    """float32, positive; 1 penalises nothing."""
    temperature_B: Array
    """float32; 0 is greedy."""
    top_k_B: Array
    """float32; at least the vocabulary's size keeps all."""
    top_p_B: Array
    """float32; 1 keeps all."""
    min_p_B: Array
    """float32; 0 keeps all."""
    key_BW: Array
    """uint32; the two words of a threefry key."""


def make_sampler(config: SamplingConfig, prompts: Sequence[np.ndarray]) -> Sampler:
    """One row a prompt of token ids, on the host.

    A row's key depends on the seed, its prompt and how often that prompt came before in the batch:
    a prompt alone gets the text that it gets in company, and a repeated one gets another.
    """
    keys, count = [], dict[bytes, int]()
    for prompt in prompts:
        text = prompt.astype("<i8").tobytes()
        count[text] = count.get(text, -1) + 1
        head = np.array([config.seed, count[text]], "<i8").tobytes()
        digest = hashlib.blake2b(head + text, digest_size=8).digest()
        keys.append(np.frombuffer(digest, "<u4").astype(np.uint32))

    def rows(value: float | None, otherwise: float) -> np.ndarray:
        return np.full(len(prompts), otherwise if value is None else value, np.float32)

    return Sampler(
        rows(config.repetition_penalty, 1.0),
        rows(config.temperature, 1.0),
        rows(config.top_k, np.inf),
        rows(config.top_p, 1.0),
        rows(config.min_p, 0.0),
        np.stack(keys),
    )


def sample(
    logits_BV: jax.Array, sampler: Sampler, *, position_B: jax.Array, seen_BV: jax.Array
) -> jax.Array:
    """int32 `[B]`: the token at `position_B` of each row.

    Args:
        logits_BV: float32 scores from the model.
        sampler: settings and key of each row.
        position_B: place of the new token in its row; folded into the row's key.
        seen_BV: True for tokens that the row holds already.
    """
    logits_BV = penalize(logits_BV, seen_BV, sampler.repetition_penalty_B)
    likeliest_B = _argmax(logits_BV)
    drawn = sampler.temperature_B > 0

    def draw() -> jax.Array:
        scaled_BV = logits_BV / jnp.where(drawn, sampler.temperature_B, 1.0)[:, None]
        noise_BV = _gumbel(sampler.key_BW, position_B, logits_BV.shape[-1])
        token_B = _argmax(keep_likely(scaled_BV, sampler) + noise_BV)
        return jnp.where(drawn, token_B, likeliest_B)

    return jax.lax.cond(jnp.any(drawn), draw, lambda: likeliest_B)


def probabilities(logits_BV: jax.Array, sampler: Sampler, *, seen_BV: jax.Array) -> jax.Array:
    """Float32 `[B, V]`: the chances with which `sample` draws; 1 for a greedy row's likeliest."""
    logits_BV = penalize(logits_BV, seen_BV, sampler.repetition_penalty_B)
    drawn = jnp.asarray(sampler.temperature_B) > 0
    likeliest_BV = jax.nn.one_hot(_argmax(logits_BV), logits_BV.shape[-1], dtype=jnp.float32)

    def soft() -> jax.Array:
        scaled_BV = logits_BV / jnp.where(drawn, sampler.temperature_B, 1.0)[:, None]
        p_BV = jax.nn.softmax(keep_likely(scaled_BV, sampler), axis=-1)
        return jnp.where(drawn[:, None], p_BV, likeliest_BV)

    return jax.lax.cond(jnp.any(drawn), soft, lambda: likeliest_BV)


def draw(p_BV: jax.Array, key_BW: Array, position_B: jax.Array) -> jax.Array:
    """int32 `[B]`: one draw from each row of `p_BV`, which need not add up to one."""
    return _argmax(jnp.log(p_BV) + _gumbel(key_BW, position_B, p_BV.shape[-1]))


def penalize(logits_BV: jax.Array, seen_BV: jax.Array, penalty_B: Array) -> jax.Array:
    """Logits of seen tokens divided by the penalty if positive, multiplied if negative."""
    penalty_B1 = jnp.asarray(penalty_B)[:, None]
    lower_BV = jnp.where(logits_BV > 0, logits_BV / penalty_B1, logits_BV * penalty_B1)
    return jnp.where(seen_BV, lower_BV, logits_BV)


def keep_likely(scaled_BV: jax.Array, sampler: Sampler) -> jax.Array:
    """`scaled_BV` with -inf for what top-k, then top-p, then min-p take out.

    Equal logits stay or go together. A filter that no row asks for costs nothing.
    """
    vocabulary = scaled_BV.shape[-1]

    def top_k(logits_BV: jax.Array) -> jax.Array:
        return keep_top(logits_BV, jnp.ones_like(logits_BV), jnp.asarray(sampler.top_k_B))

    def top_p(logits_BV: jax.Array) -> jax.Array:
        p_BV = jax.nn.softmax(logits_BV, axis=-1)
        return keep_top(logits_BV, p_BV, jnp.asarray(sampler.top_p_B))

    def same(logits_BV: jax.Array) -> jax.Array:
        return logits_BV

    kept_BV = jax.lax.cond(jnp.any(sampler.top_k_B < vocabulary), top_k, same, scaled_BV)
    kept_BV = jax.lax.cond(jnp.any(sampler.top_p_B < 1), top_p, same, kept_BV)
    floor_B1 = jnp.max(kept_BV, axis=-1, keepdims=True) + jnp.log(sampler.min_p_B)[:, None]
    return jnp.where(kept_BV >= floor_B1, kept_BV, -jnp.inf)


def keep_top(logits_BV: jax.Array, weight_BV: jax.Array, need_B: jax.Array) -> jax.Array:
    """The fewest highest logits whose weights add up to `need_B`, the rest -inf.

    Rows whose weights do not add up to what they need keep all.
    """
    order_BV = _ordered(logits_BV)

    def add_bit(index: jax.Array, threshold_B: jax.Array) -> jax.Array:
        higher_B = threshold_B | (jnp.uint32(1) << (31 - index).astype(jnp.uint32))
        above_BV = jnp.where(order_BV >= higher_B[:, None], weight_BV, 0.0)
        return jnp.where(jnp.sum(above_BV, axis=-1) >= need_B, higher_B, threshold_B)

    threshold_B = jax.lax.fori_loop(0, 32, add_bit, jnp.zeros(need_B.shape, jnp.uint32))
    return jnp.where(order_BV >= threshold_B[:, None], logits_BV, -jnp.inf)


def _argmax(x_BV: jax.Array) -> jax.Array:
    """int32 `[B]`: the first place of each row's largest value.

    As two plain reductions, which XLA for CPUs vectorises; that of `jnp.argmax` it does not.
    """
    size = x_BV.shape[-1]
    places_BV = jnp.broadcast_to(jnp.arange(size, dtype=jnp.int32)[None], x_BV.shape)
    largest_B1 = jnp.max(x_BV, axis=-1, keepdims=True)
    return jnp.min(jnp.where(x_BV == largest_B1, places_BV, size - 1), axis=-1)


def _ordered(x: jax.Array) -> jax.Array:
    """uint32 that compare as the float32 `x` do.

    IEEE 754 numbers compare as their bits do, but for the sign: here it is set for positive ones,
    and negative ones, whose bits stand in order of magnitude, have all of them flipped.
    """
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    return jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(1 << 31))


def _gumbel(key_BW: Array, position_B: jax.Array, vocabulary: int) -> jax.Array:
    def row(words_W: jax.Array, position: jax.Array) -> jax.Array:
        key = jax.random.wrap_key_data(words_W, impl="threefry2x32")
        return jax.random.gumbel(jax.random.fold_in(key, position), (vocabulary,), jnp.float32)

    return jax.vmap(row)(jnp.asarray(key_BW), position_B)
