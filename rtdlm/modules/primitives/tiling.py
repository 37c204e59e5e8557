"""Choices sorted into tiles, so that what shares a weight (or a block of keys) is one product.

Every token chooses k of M kinds. Pairs of a token and a kind are sorted by kind and filled into
tiles of C pairs of one kind, in the order of the tokens. Pads: less than one tile a kind.

Axes: R rows, T tokens, k choices, J = T * k pairs, M kinds, U tiles, C pairs of a tile, S = U * C
slots.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

TILE = 64
"""Pairs of a tile."""


class Tiling(NamedTuple):
    """Which pair is in which slot, and of which kind a tile is."""

    slot_RJ: jax.Array
    """Slot of each pair; S for a pair without a kind."""
    token_RS: jax.Array
    """Token of each slot; T for an empty one."""
    pair_RS: jax.Array
    """Pair of each slot; J for an empty one."""
    kind_RU: jax.Array
    """Kind of each tile."""


def tile_pairs(chosen_RTk: jax.Array, *, kinds: int, tile: int = TILE) -> Tiling:
    """Sorts every row's pairs by kind; kind number `kinds` means none."""
    return jax.vmap(lambda chosen_Tk: _tile_row(chosen_Tk, kinds, tile))(chosen_RTk)


def most_tiles(pairs: int, *, kinds: int, tile: int) -> int:
    """Tiles that `pairs` may take at worst: every kind's last one holds a single pair."""
    begun = min(kinds, pairs)
    return (pairs + begun * (tile - 1)) // tile


def _tile_row(chosen_Tk: jax.Array, kinds: int, tile: int) -> Tiling:
    length, num_chosen = chosen_Tk.shape
    pairs = length * num_chosen
    tiles = most_tiles(pairs, kinds=kinds, tile=tile)
    kind_J = chosen_Tk.reshape(-1)
    order_J = jnp.argsort(kind_J, stable=True)
    bounds = jnp.searchsorted(kind_J[order_J], jnp.arange(kinds + 1))
    first_M, count_M = bounds[:-1], bounds[1:] - bounds[:-1]
    ends_M = jnp.cumsum(-(-count_M // tile))
    begin_M = (ends_M - -(-count_M // tile)) * tile
    kind_U = jnp.minimum(jnp.searchsorted(ends_M, jnp.arange(tiles), side="right"), kinds - 1)
    kind_S = jnp.repeat(kind_U, tile)
    rank_S = jnp.arange(tiles * tile) - begin_M[kind_S]
    filled_S = rank_S < count_M[kind_S]
    pair_S = order_J[jnp.where(filled_S, first_M[kind_S] + rank_S, 0)]
    pair_S = jnp.where(filled_S, pair_S, pairs)
    slot_J = jnp.full(pairs, tiles * tile).at[pair_S].set(jnp.arange(tiles * tile), mode="drop")
    token_S = jnp.where(filled_S, pair_S // num_chosen, length)
    return Tiling(slot_J, token_S, pair_S, kind_U)
