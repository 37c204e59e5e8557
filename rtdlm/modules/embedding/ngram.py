"""Hashed n-gram embeddings (arXiv 2601.07372; hashing as in arXiv 0902.2206).

The last n tokens of the document, n = 2, 3, ..., choose a row of each order's table:

    row_n(t) = hash(id_t, ..., id_{t-n+1}) mod buckets

What stands before the document counts as a token of its own. Where the table has a row for every
sequence of n tokens, the hash is their number and no two share a row; else it is a polynomial in
uint32 with murmur3's finish, shifted before it by the number of the table if an order has several,
so that sequences which share a row of one are apart in another. Rows are added to the token's
embedding, through a projection if they are narrower, and start at zero.

Axes: B batch, T time, N tables, R rows of all tables, E features of a row, D model, V vocabulary.
"""

from collections.abc import Sequence

import haiku as hk
import jax
import jax.numpy as jnp

from rtdlm.config import NgramConfig
from rtdlm.modules.embedding.table import lookup
from rtdlm.modules.primitives import Projection

MULTIPLIER = 2_654_435_761  # Knuth's: 2^32 over the golden ratio, odd.
SHIFT = 0x7FEB352D  # Between the tables of an order; odd too, so that no two shifts are alike.


def ngram_rows(
    tokens: Sequence[jax.Array],
    *,
    orders: Sequence[int],
    rows: int,
    heads: int = 1,
    vocab_size: int,
) -> jax.Array:
    """`[B, T, N]` int32 rows into the tables, those of one order beside each other.

    Args:
        tokens: int32 `[B, T]` each, id + 1 and 0 before the document: the newest, the one before
            it, and so on; at least as many as the longest order.
        orders: lengths of sequences.
        rows: of each table.
        heads: tables of each order.
        vocab_size: number of different ids.
    """
    found: list[jax.Array] = []
    for order in orders:
        exact = (vocab_size + 1) ** order <= rows
        number = _number(tokens[:order], vocab_size + 1 if exact else MULTIPLIER)
        for head in range(heads):
            row = number
            if not exact:
                row = _mixed(number + jnp.uint32(head * SHIFT % 2**32)) % jnp.uint32(rows)
            found.append(row.astype(jnp.int32) + len(found) * rows)
    return jnp.stack(found, axis=-1)


def _number(tokens: Sequence[jax.Array], base: int) -> jax.Array:
    """The polynomial of the tokens in `base`, modulo 2^32."""
    number = jnp.zeros_like(tokens[0], jnp.uint32)
    for token in tokens:
        number = number * jnp.uint32(base) + token.astype(jnp.uint32)
    return number


def _mixed(number: jax.Array) -> jax.Array:
    """Every bit of the result depends on every bit of `number` (murmur3's fmix32)."""
    number = (number ^ (number >> 16)) * jnp.uint32(0x85EBCA6B)
    number = (number ^ (number >> 13)) * jnp.uint32(0xC2B2AE35)
    return number ^ (number >> 16)


class NgramTables(hk.Module):
    """The tables of all orders, looked up."""

    def __init__(self, config: NgramConfig, *, vocab_size: int, name: str = "ngram") -> None:
        super().__init__(name=name)
        self.config = config
        self.vocab_size = vocab_size

    def __call__(self, tokens: Sequence[jax.Array], *, d_model: int, dtype: jnp.dtype) -> jax.Array:
        """What the last tokens of each token contribute `[B, T, D]`; `tokens` as `ngram_rows`."""
        config = self.config
        rows_BTN = ngram_rows(
            tokens, orders=config.orders, rows=config.rows, vocab_size=self.vocab_size
        )
        size = (len(config.orders) * config.rows, config.dim or d_model)
        found_BTNE = lookup(rows_BTN, shape=size, std=0.0, dtype=dtype, name="table")
        if config.dim is None:
            return jnp.sum(found_BTNE, axis=2)
        shape = (len(config.orders), config.dim, d_model)
        return Projection("BTNE,NED->BTD", shape=shape, name="projection")(found_BTNE)
