"""Attention to chosen keys that lie side by side, tile by tile, as many tiles as there are.

    y_t = sum_j z_j exp(q_t k_j) v_j / (1 + sum_j z_j exp(q_t k_j)),   first_t <= j < end_t

Chosen keys of a row are moved together in the order of the row, so that what a query may read is a
range of slots. A loop runs over the tiles that any query of a block may read, and over no other:
how many is known only when the program runs. The one in the denominator is a key of score zero and
value zero, so that a query that finds nothing reads zero. z_j is 1 for a key that counts; keys with
z_j = 0 are there for the gradient with respect to z, which is in closed form

    dz_j = sum_t p_tj dy_t (v_j - y_t)

with p_tj the weight that the key has, or would have if it counted, which never exceeds one.

Forward as in FlashAttention (arXiv 2205.14135), backward from the saved normalisers.

Axes: B batch, T time, K key-value heads, R = B * K rows, G queries of a group, I blocks, C queries
of a block, N = G * C, S slots, L slots of a tile, E head features.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rtdlm.modules.attention.dot_product import MASKED
from rtdlm.modules.primitives import dot, narrow

BLOCK = 128
TILE = 64


class Chosen(NamedTuple):
    """Where the chosen tokens of each row are."""

    token_RS: jax.Array
    """Token in each slot; T in an empty one."""
    slot_RT: jax.Array
    """Slot of each token; S for one that was not chosen."""
    end_RT: jax.Array
    """Chosen tokens of the row up to each token, itself included."""


class Queries(NamedTuple):
    """Blocks of scaled queries and the slots that each may read."""

    query_IRNE: jax.Array
    first_IRC: jax.Array
    end_IRC: jax.Array


class Keys(NamedTuple):
    """Keys and values slot by slot."""

    key_RSE: jax.Array
    value_RSE: jax.Array


class Read(NamedTuple):
    """What queries read, and what it took."""

    read_IRNE: jax.Array
    normaliser_IRN: jax.Array
    """Logarithm of the denominator."""
    tiles_I: jax.Array
    """int32; tiles that were computed for each block, for all rows together."""


def slots_for(length: int) -> int:
    """Slots for `length` tokens: whole tiles, or one that is smaller."""
    return length if length <= TILE else -(-length // TILE) * TILE


def choose(chosen_RT: jax.Array) -> Chosen:
    """Numbers the chosen tokens of every row."""
    length = chosen_RT.shape[1]
    slots = slots_for(length)
    end_RT = jnp.cumsum(chosen_RT.astype(jnp.int32), axis=1)
    slot_RT = jnp.where(chosen_RT, end_RT - 1, slots)
    empty = jnp.full((chosen_RT.shape[0], slots), length, jnp.int32)
    time_T = jnp.arange(length, dtype=jnp.int32)
    token_RS = jax.vmap(lambda row, slot: row.at[slot].set(time_T, mode="drop"))(empty, slot_RT)
    return Chosen(token_RS, slot_RT, end_RT)


def take(x_RT: jax.Array, index_RS: jax.Array) -> jax.Array:
    """Row by row `x[index]`, zeros where the index is out of range."""
    return jax.vmap(lambda x, index: x.at[index].get(mode="fill", fill_value=0))(x_RT, index_RS)


def read(queries: Queries, keys: Keys) -> Read:
    """What every query reads of the slots in its range, each of which counts."""
    tile = min(TILE, keys.key_RSE.shape[1])

    def block(_: None, given: Queries) -> tuple[None, tuple[jax.Array, jax.Array, jax.Array]]:
        begin, end = _tiles(given, tile)
        query_RNE = given.query_IRNE

        def step(
            number: jax.Array, carry: tuple[jax.Array, jax.Array, jax.Array]
        ) -> tuple[jax.Array, jax.Array, jax.Array]:
            top, total, sums = carry
            part = _cut(keys, number, tile)
            scores_RNL = _scores(given, part.key_RSE, number, tile)
            after = jnp.maximum(top, jnp.max(scores_RNL, axis=-1, keepdims=True))
            weights_RNL, fade = jnp.exp(scores_RNL - after), jnp.exp(top - after)
            total = total * fade + jnp.sum(weights_RNL, axis=-1, keepdims=True)
            weights_RNL = narrow(weights_RNL, part.value_RSE.dtype)
            return after, total, sums * fade + dot("RNL,RLE->RNE", weights_RNL, part.value_RSE)

        nothing = jnp.zeros(query_RNE.shape, jnp.float32)
        start = (nothing[..., :1], nothing[..., :1] + 1.0, nothing)
        top, total, sums = jax.lax.fori_loop(begin, end, step, start)
        found = narrow(sums / total, query_RNE.dtype)
        return None, (found, (top + jnp.log(total))[..., 0], end - begin)

    return Read(*jax.lax.scan(block, None, queries)[1])


class Changes(NamedTuple):
    """Gradients, float32."""

    query_IRNE: jax.Array
    key_RSE: jax.Array
    value_RSE: jax.Array
    counts_RS: jax.Array


class Known(NamedTuple):
    """Blocks of what the backward pass starts from."""

    change_IRNE: jax.Array
    read_IRNE: jax.Array
    normaliser_IRN: jax.Array


def differentiate(queries: Queries, keys: Keys, counts_RS: jax.Array, known: Known) -> Changes:
    """Gradients of `read`, where slots with `counts_RS` False were not read but could be.

    Ranges and slots may be others than forward, where only those that count had slots.
    """
    tile, dtype = min(TILE, keys.key_RSE.shape[1]), keys.key_RSE.dtype

    def block(
        sums: tuple[jax.Array, jax.Array, jax.Array], given: tuple[Queries, Known]
    ) -> tuple[tuple[jax.Array, jax.Array, jax.Array], jax.Array]:
        own, (change, found, normaliser) = given
        begin, end = _tiles(own, tile)
        inner = jnp.sum(change.astype(jnp.float32) * found.astype(jnp.float32), -1, keepdims=True)

        def step(number: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            dquery, dkey, dvalue, dcounts = carry
            part = _cut(keys, number, tile)
            counts_R1L = jax.lax.dynamic_slice_in_dim(counts_RS, number * tile, tile, 1)[:, None]
            log_odds = _scores(own, part.key_RSE, number, tile) - normaliser[..., None]
            weights = jnp.where(counts_R1L, jnp.exp(log_odds), jax.nn.sigmoid(log_odds))
            gain_RNL = weights * (dot("RNE,RLE->RNL", change, part.value_RSE) - inner)
            dscores = narrow(jnp.where(counts_R1L, gain_RNL, 0.0), dtype)
            weights = narrow(jnp.where(counts_R1L, weights, 0.0), dtype)
            return (
                dquery + dot("RNL,RLE->RNE", dscores, part.key_RSE),
                _add(dkey, number * tile, dot("RNL,RNE->RLE", dscores, own.query_IRNE)),
                _add(dvalue, number * tile, dot("RNL,RNE->RLE", weights, change)),
                _add(dcounts, number * tile, jnp.sum(gain_RNL, axis=1)),
            )

        nothing = jnp.zeros(own.query_IRNE.shape, jnp.float32)
        dquery, *after = jax.lax.fori_loop(begin, end, step, (nothing, *sums))
        return (after[0], after[1], after[2]), dquery

    shapes = (keys.key_RSE.shape, keys.value_RSE.shape, counts_RS.shape)
    start = tuple(jnp.zeros(shape, jnp.float32) for shape in shapes)
    (dkey, dvalue, dcounts), dquery = jax.lax.scan(
        block, (start[0], start[1], start[2]), (queries, known)
    )
    return Changes(dquery, dkey, dvalue, dcounts)


def _tiles(own: Queries, tile: int) -> tuple[jax.Array, jax.Array]:
    """First tile that any query of a block may read, and the one after the last."""
    begin = jnp.min(own.first_IRC) // tile
    return begin, jnp.maximum(begin, -(-jnp.max(own.end_IRC) // tile))


def _cut(keys: Keys, number: jax.Array, tile: int) -> Keys:
    return Keys(*(jax.lax.dynamic_slice_in_dim(x, number * tile, tile, axis=1) for x in keys))


def _scores(own: Queries, key_RLE: jax.Array, number: jax.Array, tile: int) -> jax.Array:
    slot_L = number * tile + jnp.arange(tile)
    first, end = own.first_IRC[..., None], own.end_IRC[..., None]
    mask_RCL = (slot_L[None, None] >= first) & (slot_L[None, None] < end)
    scores_RNL = dot("RNE,RLE->RNL", own.query_IRNE, key_RLE)
    rows, block = mask_RCL.shape[:2]
    split = scores_RNL.reshape(rows, -1, block, tile)
    return jnp.where(mask_RCL[:, None], split, MASKED).reshape(scores_RNL.shape)


def _add(sums: jax.Array, start: jax.Array, part: jax.Array) -> jax.Array:
    old = jax.lax.dynamic_slice_in_dim(sums, start, part.shape[1], axis=1)
    return jax.lax.dynamic_update_slice_in_dim(sums, old + part, start, axis=1)
