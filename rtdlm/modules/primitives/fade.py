"""Products of a chunk's queries and keys, faded by the decay between the two tokens.

    P_ij = sum over e of q_ie k_je exp(c_ie - c_je)    for j <= i of the same document, else 0

c is the running sum of log decays, each at most 0, one a head or one a key channel. With one a head
the exponentials are a factor of q k^T. With one a channel they stand inside the sum, and exp(-c_je)
alone would overflow. There, chunks are halved as often as they can be (the secondary chunks of
arXiv 2312.06635 and 2510.26692, taken to their end): a query of a block's second half meets the
keys of its first half at the boundary b between the halves,

    exp(c_ie - c_je) = exp(c_ie - c_be) exp(c_be - c_je),

two factors of at most 1 however strong the decay, so that all is matrix products, and a token has
log2 C exponentials a channel. Sums start at a boundary and are added up, never subtracted: they
hold nothing of other documents wherever they count, and lose no digits to a long chunk.

Axes: B batch, H heads, R = B * H, E key features (1 for a decay a head), I chunks, C tokens of a
chunk, L kinds of queries, N blocks of a chunk, M tokens of half a block.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rtdlm.modules.primitives.chunks import Documents


class Faded(NamedTuple):
    """What decay leaves of a chunk, float32; zero between documents."""

    products: tuple[jax.Array, ...]
    """P `[I, R, C, C]` of each kind of queries."""
    since_IRCE: jax.Array
    """exp(c): what the state before the chunk still counts once the token has been read."""
    until_IRCE: jax.Array
    """exp(c_C - c): what the token still counts after the chunk."""


def fade(
    queries: tuple[jax.Array, ...],
    key_IRCE: jax.Array,
    decay_IRCE: jax.Array,
    where: Documents,
    heads: int,
) -> Faded:
    """Fades products of each of `queries` `[I, R, C, E]` with the keys; all float32.

    Args:
        queries: any kinds of them.
        key_IRCE: keys.
        decay_IRCE: log decays, at most 0; of size 1 over E for one a head. For one a channel C is a
            power of two.
        where: which document's state a token sees.
        heads: H.
    """
    by = _by_head if decay_IRCE.shape[-1] == 1 else _by_channel
    return by(queries, key_IRCE, decay_IRCE, where, heads)


def _by_head(
    queries: tuple[jax.Array, ...],
    key_IRCE: jax.Array,
    decay_IRC1: jax.Array,
    where: Documents,
    heads: int,
) -> Faded:
    within = where.per_row(where.within_IBCC, heads)
    # Of the token's own document alone: a running sum over all would leave the differences below
    # with the rounding of what earlier documents added.
    sum_IRC1 = within.astype(jnp.float32) @ decay_IRC1
    rest_IRC1 = _rounded_away(sum_IRC1, decay_IRC1, within)

    def behind(sums_IRC1: jax.Array) -> jax.Array:
        return sums_IRC1 - jnp.swapaxes(sums_IRC1, -1, -2)

    # Masked before the exponential: above the diagonal it would overflow.
    gap_IRCC = jnp.where(within, behind(sum_IRC1) + behind(rest_IRC1), 0.0)
    decay_IRCC = jnp.where(within, jnp.exp(gap_IRCC), 0.0)
    reads = where.per_row(where.reads_IBC, heads)[..., None]
    lasts = where.per_row(where.lasts_IBC, heads)[..., None]
    # As above: the difference to another document's sum has any sign.
    left_IRC1 = (sum_IRC1[:, :, -1:] - sum_IRC1) + (rest_IRC1[:, :, -1:] - rest_IRC1)
    left_IRC1 = jnp.where(lasts, left_IRC1, 0.0)
    key_IREC = jnp.swapaxes(key_IRCE, -1, -2)
    return Faded(
        products=tuple(decay_IRCC * (query_IRCE @ key_IREC) for query_IRCE in queries),
        since_IRCE=jnp.where(reads, jnp.exp(sum_IRC1), 0.0),
        until_IRCE=jnp.where(lasts, jnp.exp(left_IRC1), 0.0),
    )


def _rounded_away(sum_IRC1: jax.Array, decay_IRC1: jax.Array, within_IRCC: jax.Array) -> jax.Array:
    """What rounding took from each sum of a token's document so far; no gradient.

    Where decay was strong once, sums are large, and their differences hold their rounding. But the
    step from one sum to the next is exact, or nearly, and says what of a token's decay was lost.
    """
    goes_on = jnp.diagonal(within_IRCC, offset=-1, axis1=-2, axis2=-1)[..., None]
    before_IRC1 = jnp.pad(
        jnp.where(goes_on, sum_IRC1[:, :, :-1], 0.0), ((0, 0), (0, 0), (1, 0), (0, 0))
    )
    lost_IRC1 = jax.lax.stop_gradient((before_IRC1 - sum_IRC1) + decay_IRC1)
    return within_IRCC.astype(jnp.float32) @ lost_IRC1


def _by_channel(
    queries: tuple[jax.Array, ...],
    key_IRCE: jax.Array,
    decay_IRCE: jax.Array,
    where: Documents,
    heads: int,
) -> Faded:
    chunk, width = key_IRCE.shape[2:]
    query_IRLCE = jnp.stack(queries, axis=2)
    # Blocks of one token: nothing fades between a token and itself.
    blocks = jnp.sum(query_IRLCE * key_IRCE[:, :, None], -1)[..., None, None]
    begun, ahead = decay_IRCE[..., None, :], jnp.zeros_like(decay_IRCE)[..., None, :]
    half = 1
    while half < chunk:
        halves = (*key_IRCE.shape[:2], -1, 2, half, width)
        begun, ahead = begun.reshape(halves), ahead.reshape(halves)
        key_IRNME = jnp.exp(ahead[..., 0, :, :]) * key_IRCE.reshape(halves)[..., 0, :, :]
        query = query_IRLCE.reshape(*query_IRLCE.shape[:3], -1, 2, half, width)[..., 1, :, :]
        query_IRLNME = jnp.exp(begun[..., 1, :, :])[:, :, None] * query
        blocks = _join(blocks, jnp.einsum("IRLNME,IRNmE->IRLNMm", query_IRLNME, key_IRNME))
        begun, ahead = _join_sums(begun, ahead)
        half *= 2
    within = where.per_row(where.within_IBCC, heads)
    reads = where.per_row(where.reads_IBC, heads)[..., None]
    lasts = where.per_row(where.lasts_IBC, heads)[..., None]
    return Faded(
        products=tuple(
            jnp.where(within, blocks[:, :, kind, 0], 0.0) for kind in range(len(queries))
        ),
        since_IRCE=jnp.where(reads, jnp.exp(begun[:, :, 0]), 0.0),
        until_IRCE=jnp.where(lasts, jnp.exp(ahead[:, :, 0]), 0.0),
    )


def _join(blocks: jax.Array, cross_IRLNMM: jax.Array) -> jax.Array:
    """Products within blocks of 2 M tokens from those within halves and those across.

    `[I, R, L, 2 N, M, M]` and `[I, R, L, N, M, M]` -> `[I, R, L, N, 2 M, 2 M]`.
    """
    halves = blocks.reshape(*cross_IRLNMM.shape[:4], 2, *cross_IRLNMM.shape[4:])
    first, second = halves[..., 0, :, :], halves[..., 1, :, :]
    above = jnp.concatenate([first, jnp.zeros_like(first)], axis=-1)
    return jnp.concatenate([above, jnp.concatenate([cross_IRLNMM, second], axis=-1)], axis=-2)


def _join_sums(begun: jax.Array, ahead: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Log decays from a block's start through each token, and from behind it to the block's end.

    `[I, R, N, 2, M, E]` of the halves -> `[I, R, N, 2 M, E]` of the blocks.
    """
    first, second = (begun[..., side, -1:, :] for side in (0, 1))
    begun = jnp.concatenate([begun[..., 0, :, :], first + begun[..., 1, :, :]], axis=-2)
    ahead = jnp.concatenate([ahead[..., 0, :, :] + second, ahead[..., 1, :, :]], axis=-2)
    return begun, ahead
