"""Complete blocks of a packed row's documents.

A block is L tokens of one document, counted from the document's start, so that packing changes no
block. A document's unfinished rest is in none. A row of T tokens has at most M = T // L.

Axes: B batch, T time, M blocks, L tokens of a block.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rtdlm.modules.attention.mask import document_begins, first_tokens


class Blocks(NamedTuple):
    """Where blocks are, in the order of the row; M blocks, of which the last may not exist."""

    token_BX: jax.Array
    """`[B, M * L]`: token at each place of each block; T where there is none."""
    place_BT: jax.Array
    """`[B, T]`: place of each token, M * L if it is in no block."""
    document_BM: jax.Array
    """Number of the block's document; -1 where there is no block."""
    start_BM: jax.Array
    """First token; T where there is no block."""
    document_BT: jax.Array
    """Number of each token's document, counted within the row from 0."""


def find_blocks(segment_ids_BT: jax.Array, block: int) -> Blocks:
    """The complete blocks of `block` tokens; a document begins wherever the segment changes."""
    batch, length = segment_ids_BT.shape
    count = length // block
    time_BT = jnp.broadcast_to(jnp.arange(length)[None], (batch, length))
    document_BT = jnp.cumsum(document_begins(segment_ids_BT).astype(jnp.int32), axis=1) - 1
    offset_BT = (time_BT - first_tokens(segment_ids_BT)) % block
    ends_BT = offset_BT == block - 1
    # The block of a token is the next to end, if it ends before the document does.
    index_BT = jnp.cumsum(ends_BT.astype(jnp.int32), axis=1) - ends_BT.astype(jnp.int32)
    end_BT = time_BT - offset_BT + block - 1
    inside = end_BT < length
    last_BT = jnp.minimum(end_BT, length - 1)
    complete = inside & (jnp.take_along_axis(document_BT, last_BT, axis=1) == document_BT)
    place_BT = jnp.where(complete, index_BT * block + offset_BT, count * block)
    rows = jnp.arange(batch)[:, None]
    token_BX = jnp.full((batch, count * block), length)
    token_BX = token_BX.at[rows, place_BT].set(time_BT, mode="drop")
    start_BM = token_BX[:, ::block]
    document_BM = jnp.take_along_axis(document_BT, jnp.minimum(start_BM, length - 1), axis=1)
    document_BM = jnp.where(start_BM < length, document_BM, -1)
    return Blocks(token_BX, place_BT, document_BM, start_BM, document_BT)
