"""Dispatch that drops nothing: choices sorted by expert into tiles of a fixed number of rows.

However uneven the choice, the number of tiles is fixed by the number of choices: less than one
tile an expert is padding. Every tile meets its expert's weights in turn (as blocks of MegaBlocks,
arXiv 2211.15841, in plain XLA).

On a mesh the rows of every device are sorted by themselves, so that no token travels.

Axes: B batch, T time, D model, J choices, G groups of rows, N tokens of a group, U tiles, C rows of
a tile, S = U * C slots.
"""

from collections.abc import Callable
from math import prod

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from rtdlm.modules.experts.router import Routing
from rtdlm.modules.primitives import TILE, Projection, grouped_product, move, tile_pairs
from rtdlm.parallel import BATCH_AXES, axis_size, constrain

Apply = Callable[[Projection, jax.Array], jax.Array]
"""A layer of all experts, applied to rows of which each is one expert's."""


def through_tiles(
    x_BTD: jax.Array,
    routing: Routing,
    run: Callable[[jax.Array, Apply], jax.Array],
    *,
    weights_BT: jax.Array,
    num_experts: int,
) -> jax.Array:
    """`[B, T, J, D]`: what every choice's expert makes of the token; zeros for padding.

    `run` maps `[G, U, C, D]` by layers that it applies with its second argument.
    """
    batch, length, model = x_BTD.shape
    groups, choices = _groups(batch), routing.expert_BTJ.shape[-1]
    tokens = batch // groups * length
    expert_BTJ = jnp.where(weights_BT[..., None] > 0, routing.expert_BTJ, num_experts)
    tile = max(1, min(TILE, -(-tokens * choices // num_experts)))
    tiling = tile_pairs(expert_BTJ.reshape(groups, tokens, choices), kinds=num_experts, tile=tile)

    def apply(layer: Projection, x_GUCN: jax.Array) -> jax.Array:
        return _in_groups(x_GUCN, layer.weight(), tiling.kind_RU)

    x_GND = constrain(x_BTD.reshape(groups, tokens, model), "batch", None, None)
    x_GSD = move(x_GND, tiling.token_RS, tiling.slot_RJ)
    y_GUCD = run(x_GSD.reshape(groups, -1, tile, model), apply)
    y_GJD = move(y_GUCD.reshape(groups, -1, model), tiling.slot_RJ, tiling.pair_RS)
    return y_GJD.reshape(batch, length, choices, model)


def _in_groups(x_GUCN: jax.Array, w: jax.Array, kind_GU: jax.Array) -> jax.Array:
    """Every group's tiles on the devices that hold it; left to itself, XLA's partitioner would
    exchange parts of the weights for every tile.
    """

    def run(x_1UCN: jax.Array, w: jax.Array, kind_1U: jax.Array) -> jax.Array:
        return grouped_product(x_1UCN[0], w, kind_1U[0])[None]

    if len(x_GUCN) == 1:
        return run(x_GUCN, w, kind_GU)

    # Without the check of what varies, the gradient of `w` is summed once, after its loop.
    rows, whole = PartitionSpec(BATCH_AXES), PartitionSpec()
    return jax.shard_map(
        run,
        in_specs=(rows, whole, rows),
        out_specs=rows,
        axis_names=set(BATCH_AXES),
        check_vma=False,
    )(x_GUCN, w, kind_GU)


def _groups(batch: int) -> int:
    """Devices that rows are split over; one group where they do not split evenly."""
    ways = prod(axis_size(axis) for axis in BATCH_AXES)
    return ways if batch % ways == 0 else 1
