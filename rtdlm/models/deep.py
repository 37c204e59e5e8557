"""A block that some tokens pass by: mixture of depths around any block.

The chosen tokens are moved together, the block runs on them as on a shorter row, and what it writes
is moved back: attention, convolutions and values of the first layer meet the chosen tokens only. In
decoding the cache holds all tokens' places and knows which were chosen; a step in which no row's
token is chosen skips the block.

Axes: B batch, T time, S cache slots, D model, C chosen tokens.
"""

import haiku as hk
import jax
import jax.numpy as jnp

from rtdlm.config import AGIConfig
from rtdlm.models.block import Block, BlockInput, BlockOutput, Stream, remat
from rtdlm.models.cache import LayerCache
from rtdlm.models.layers import LayerPlan
from rtdlm.modules.attention import KINDS, Rotation, Rows
from rtdlm.modules.depths import Chosen, DepthRouter, Places, gather, gather_ints, scatter
from rtdlm.modules.primitives import Past, packed_past


def run_deep(
    block: Block,
    config: AGIConfig,
    plan: LayerPlan,
    stream: Stream,
    given: BlockInput,
    cache: LayerCache | None,
    is_first: jax.Array | None = None,
    *,
    training: bool,
) -> tuple[Stream, BlockOutput]:
    """The stream after the block for the chosen tokens, and what the layer leaves behind.

    `is_first` is as in `Block`; a token that the first layer passes by has zeros as its values.
    """
    x_BTD = stream.x_BTD
    capacity = config.depths.tokens(x_BTD.shape[1])
    router = DepthRouter(name="depths")
    chosen = router(x_BTD, given.weights_BT, capacity=capacity, training=training)
    if cache is not None:
        return _extend(block, config, plan, stream, given, cache, is_first, chosen)
    rows = given.rows[plan.attention]
    assert rows.segment_ids_BT is not None
    positions_BC, segments_BC = (
        gather_ints(x, chosen) for x in (rows.positions_BT, rows.segment_ids_BT)
    )
    kind, reach = KINDS[plan.attention](config.attention), config.short_conv - 1
    own = of_chosen(
        given,
        chosen,
        rows={plan.attention: kind.packed(positions_BC, segments_BC)},
        past=packed_past(segments_BC, reach=reach) if reach > 0 else None,
    )
    short = _short(stream, chosen)
    after, left = remat(block, config.remat)(short, own, None, is_first)
    return _merged(stream, short, after, chosen), left._replace(depths=chosen.statistics)


def _extend(
    block: Block,
    config: AGIConfig,
    plan: LayerPlan,
    stream: Stream,
    given: BlockInput,
    cache: LayerCache,
    is_first: jax.Array | None,
    chosen: Chosen,
) -> tuple[Stream, BlockOutput]:
    outer = given.rows[plan.attention]
    assert cache.taken_BS is not None and outer.lengths_B is not None
    positions_BT, taken_BT = outer.positions_BT, chosen.taken_BT
    batch, slots = jnp.arange(positions_BT.shape[0])[:, None], cache.taken_BS.shape[1]
    # A token that does not count is overwritten before it is read, and so is its mark.
    taken_BS = cache.taken_BS.at[batch, positions_BT].set(taken_BT, mode="drop")
    place_1T = jnp.arange(positions_BT.shape[1])[None]
    counted_BT = taken_BT & (place_1T < outer.lengths_B[:, None])
    lengths_B = jnp.sum(counted_BT.astype(jnp.int32), axis=1)
    # What is none of the chosen is written beyond the last slot, which is nowhere.
    is_token_BC = chosen.token_BC < positions_BT.shape[1]
    positions_BC = jnp.where(is_token_BC, gather_ints(positions_BT, chosen), slots)
    kind = KINDS[plan.attention](config.attention)
    rows: Rows = kind.continued(positions_BC, lengths_B, cache.kv)
    assert rows.mask_BTS is not None
    rows = rows._replace(mask_BTS=rows.mask_BTS & taken_BS[:, None])
    past = None if given.past is None else Past(None, lengths_B)
    own = of_chosen(given, chosen, rows={plan.attention: rows}, past=past)

    def run(stream: Stream, cache: LayerCache) -> tuple[Stream, LayerCache]:
        short = _short(stream, chosen)
        after, left = block(short, own, cache, is_first)
        assert left.cache is not None
        return _merged(stream, short, after, chosen), left.cache

    def skip(stream: Stream, cache: LayerCache) -> tuple[Stream, LayerCache]:
        return stream, cache

    after, kept = hk.cond(jnp.any(taken_BT), run, skip, stream, cache)
    left = BlockOutput(kept._replace(taken_BS=taken_BS), None, chosen.statistics)
    return after, left


def of_chosen(
    given: BlockInput, chosen: Places, *, rows: dict[str, Rows], past: Past | None
) -> BlockInput:
    """What the block reads, of the chosen tokens alone."""

    def own(x: jax.Array | None) -> jax.Array | None:
        return None if x is None else gather(x, chosen)

    turn = given.turn
    if turn is not None:
        batch = chosen.token_BC.shape[0]
        turn = Rotation(
            *(
                gather(jnp.broadcast_to(x, (batch, *x.shape[1:])), chosen)
                for x in (turn.cos_BTR, turn.sin_BTR)
            )
        )
    weights_BC = gather(given.weights_BT[..., None], chosen)[..., 0]
    return BlockInput(
        rows,
        turn,
        weights_BC,
        past,
        own(given.start_BTD),
        own(given.value_BTKE),
        ngrams_BTN=rows_of_chosen(given.ngrams_BTN, chosen),
    )


def _short(stream: Stream, chosen: Chosen) -> Stream:
    """The stream of the chosen tokens alone."""
    first = stream.first_BTKE
    return Stream(gather(stream.x_BTD, chosen), None if first is None else gather(first, chosen))


def _merged(stream: Stream, short: Stream, after: Stream, chosen: Chosen) -> Stream:
    """`stream` with what the block made of its chosen tokens, from `short` to `after`."""
    x_BTD, first_BTKE = stream.x_BTD, stream.first_BTKE
    weight_BTD = chosen.weight_BT[..., None].astype(x_BTD.dtype)
    x_BTD = x_BTD + weight_BTD * scatter(after.x_BTD - short.x_BTD, chosen)
    if first_BTKE is not None:
        assert after.first_BTKE is not None
        taken_BTKE = chosen.taken_BT[..., None, None]
        first_BTKE = jnp.where(taken_BTKE, scatter(after.first_BTKE, chosen), first_BTKE)
    return Stream(x_BTD, first_BTKE)


def rows_of_chosen(ngrams_BTN: jax.Array | None, chosen: Places) -> jax.Array | None:
    """Rows of tables of the chosen tokens, `[B, C, N]`; where no token is, any will do.

    They may be too large to be exact as floats, which `gather` makes of integers.
    """
    if ngrams_BTN is None:
        return None
    token_BC = jnp.minimum(chosen.token_BC, ngrams_BTN.shape[1] - 1)
    return jnp.take_along_axis(ngrams_BTN, token_BC[:, :, None], axis=1)
