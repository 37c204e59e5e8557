"""A block that some tokens pass by: mixture of depths around any block.

In training and in forward passes the chosen tokens are moved together, the block runs on them as on
a shorter row, and what it writes is moved back. In decoding the cache holds all tokens' places and
knows which were chosen; a step in which no row's token is chosen skips the block.

Axes: B batch, T time, S cache slots, D model, C chosen tokens.
"""

import haiku as hk
import jax
import jax.numpy as jnp

from rtdlm.config import AGIConfig
from rtdlm.models.block import Block, BlockInput, BlockOutput, Stream, remat
from rtdlm.models.cache import LayerCache
from rtdlm.models.layers import LayerPlan
from rtdlm.modules.attention import KINDS, Rotation
from rtdlm.modules.depths import Chosen, DepthRouter, gather, scatter


def run_deep(
    block: Block,
    config: AGIConfig,
    plan: LayerPlan,
    stream: Stream,
    given: BlockInput,
    cache: LayerCache | None,
    *,
    training: bool,
) -> tuple[Stream, BlockOutput]:
    """The stream after the block for the chosen tokens, and what the layer leaves behind."""
    x_BTD = stream.x_BTD
    capacity = config.depths.tokens(x_BTD.shape[1])
    chosen = DepthRouter(name="depths")(
        x_BTD, given.weights_BT, capacity=capacity, training=training
    )
    if cache is not None:
        return _extend(block, plan, stream, given, cache, chosen)
    short = Stream(gather(x_BTD, chosen))
    own = _of_chosen(config, plan, given, chosen)
    after, left = remat(block, config.remat)(short, own, None, None)
    weight_BTD = chosen.weight_BT[..., None].astype(x_BTD.dtype)
    write_BTD = weight_BTD * scatter(after.x_BTD - short.x_BTD, chosen)
    return Stream(x_BTD + write_BTD), left._replace(depths=chosen.statistics)


def _of_chosen(config: AGIConfig, plan: LayerPlan, given: BlockInput, chosen: Chosen) -> BlockInput:
    """What the block reads, of the chosen tokens alone."""
    rows = given.rows[plan.attention]
    assert rows.segment_ids_BT is not None
    positions, segments = (
        gather(x[..., None].astype(jnp.float32), chosen)[..., 0].astype(jnp.int32)
        for x in (rows.positions_BT, rows.segment_ids_BT)
    )
    kind = KINDS[plan.attention](config.attention)
    turn = given.turn
    if turn is not None:
        batch = positions.shape[0]
        turn = Rotation(
            *(
                gather(jnp.broadcast_to(x, (batch, *x.shape[1:])), chosen)
                for x in (turn.cos_BTR, turn.sin_BTR)
            )
        )
    return BlockInput(
        rows={plan.attention: kind.packed(positions, segments)},
        turn=turn,
        weights_BT=gather(given.weights_BT[..., None], chosen)[..., 0],
    )


def _extend(
    block: Block,
    plan: LayerPlan,
    stream: Stream,
    given: BlockInput,
    cache: LayerCache,
    chosen: Chosen,
) -> tuple[Stream, BlockOutput]:
    rows = given.rows[plan.attention]
    assert cache.taken_BS is not None and rows.mask_BTS is not None
    x_BTD, taken_BT = stream.x_BTD, chosen.taken_BT
    batch = jnp.arange(x_BTD.shape[0])[:, None]
    # A token that does not count is overwritten before it is read, and so is its mark.
    taken_BS = cache.taken_BS.at[batch, rows.positions_BT].set(taken_BT, mode="drop")
    rows = rows._replace(mask_BTS=rows.mask_BTS & taken_BS[:, None])
    inner = given._replace(rows={plan.attention: rows})

    def run(x_BTD: jax.Array, cache: LayerCache) -> tuple[jax.Array, LayerCache]:
        after, left = block(Stream(x_BTD), inner, cache)
        assert left.cache is not None
        write_BTD = chosen.weight_BT[..., None].astype(x_BTD.dtype) * (after.x_BTD - x_BTD)
        return jnp.where(taken_BT[..., None], x_BTD + write_BTD, x_BTD), left.cache

    def skip(x_BTD: jax.Array, cache: LayerCache) -> tuple[jax.Array, LayerCache]:
        return x_BTD, cache

    y_BTD, after = hk.cond(jnp.any(taken_BT), run, skip, x_BTD, cache)
    left = BlockOutput(after._replace(taken_BS=taken_BS), None, chosen.statistics)
    return Stream(y_BTD), left
