"""The training objective of all tokens, with its gradient made on the way forward.

    objective = sum_t w_t [ (1 - s) nll_t + s (logZ_t - mean logit_t) + z logZ_t^2 ]

with weights w, label smoothing s and z-loss weight z. Only this one number is differentiated, so
that its gradient in the logits is known as soon as they are:

    w_t [ (1 + 2 z logZ_t) p_t - (1 - s) onehot(label_t) - s / V ]

A chunk's logits thus serve the loss and both gradients and are gone: they are neither kept nor made
a second time, as reverse-mode differentiation would have to.

On several devices each adds up the table's gradient of its own rows over all chunks, and the sums
are added over devices once, after the last. Left to itself XLA adds them over devices in every
chunk. A device thus keeps one float32 table between chunks, which it has within each anyhow.

Axes: B batch, T time, C positions of a chunk, N chunks, D model, V vocabulary, G groups of rows
that lie apart.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from rtdlm.modules.head.statistics import Softmax, TokenStatistics, chunked, joined, statistics_of
from rtdlm.modules.head.unembed import logits
from rtdlm.modules.primitives import dot, row_major, weight_gradient
from rtdlm.parallel import (
    BATCH_AXES,
    constrain,
    gathered,
    row_groups,
    scattered,
    split_along,
    split_of,
    weight_lies,
)


class LossTerms(NamedTuple):
    """What the objective weighs; float32, and carrying no gradient."""

    weights_BT: jax.Array
    label_smoothing: jax.Array
    z_loss: jax.Array
    scale: jax.Array
    """What the objective will be multiplied by before it is differentiated. It changes no result:
    the slopes are made at that size, which float16 can hold where it cannot hold the weights."""


class TokenLoss(NamedTuple):
    """The objective and, without gradient, the statistics of every token."""

    objective: jax.Array
    tokens: TokenStatistics


class _Gradients(NamedTuple):
    """Of the objective times `scale`."""

    x_BTD: jax.Array
    table_VD: jax.Array
    scale: jax.Array


def token_loss(
    x_BTD: jax.Array,
    table_VD: jax.Array,
    labels_BT: jax.Array,
    terms: LossTerms,
    *,
    cap: float | None,
    chunk_size: int,
) -> TokenLoss:
    """The objective, to be differentiated in `x_BTD` and `table_VD`; see `token_statistics`."""
    return _token_loss(cap, chunk_size, x_BTD, table_VD, labels_BT, terms)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _token_loss(
    cap: float | None,
    chunk_size: int,
    x_BTD: jax.Array,
    table_VD: jax.Array,
    labels_BT: jax.Array,
    terms: LossTerms,
) -> TokenLoss:
    return _forward(cap, chunk_size, x_BTD, table_VD, labels_BT, terms)[0]


def _forward(
    cap: float | None,
    chunk_size: int,
    x_BTD: jax.Array,
    table_VD: jax.Array,
    labels_BT: jax.Array,
    terms: LossTerms,
) -> tuple[TokenLoss, _Gradients]:
    split = split_of("decoder/output", table_VD.shape)
    # Whole features before the loop: where devices have some of them each, XLA's TPU compiler would
    # gather them in every chunk.
    table = _whole(table_VD.astype(x_BTD.dtype), split)
    groups = row_groups(len(x_BTD))
    apart = (groups,) if groups > 1 else ()

    def add(
        total: tuple[jax.Array, jax.Array], part: tuple[jax.Array, ...]
    ) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, TokenStatistics]]:
        x_BCD, labels_BC, weights_BC = part
        each = terms._replace(weights_BT=weights_BC)
        loss, slope_BCV = _chunk(x_BCD, table, labels_BC, each, cap)
        dx_BCD = dot("BCV,VD->BCD", slope_BCV, table)
        flat = [array.reshape(*apart, -1, array.shape[-1]) for array in (x_BCD, slope_BCV)]
        total = (total[0] + loss.objective, _lies_apart(total[1] + weight_gradient(*flat)))
        return total, (dx_BCD.astype(x_BCD.dtype), loss.tokens)

    zero_DV = _lies_apart(jnp.zeros((*apart, *table_VD.shape[::-1]), jnp.float32))
    zero = (jnp.zeros((), jnp.float32), zero_DV)
    size = min(chunk_size, x_BTD.shape[1])
    parts = tuple(chunked(array, size) for array in (x_BTD, labels_BT, terms.weights_BT))
    (objective, dtable_DV), made = jax.lax.scan(add, zero, parts)
    if apart:
        dtable_DV = _summed(dtable_DV, split)
    dx_BTD, tokens = jax.tree.map(lambda array: joined(array, x_BTD.shape[1]), made)
    return TokenLoss(objective, tokens), _Gradients(
        dx_BTD, row_major(dtable_DV).T.astype(table_VD.dtype), terms.scale
    )


def _backward(
    cap: float | None, chunk_size: int, made: _Gradients, slope: TokenLoss
) -> tuple[jax.Array, jax.Array, None, None]:
    del cap, chunk_size
    # One, where `scale` was told right; in float32, for else float16 may not hold it.
    rest = slope.objective / made.scale
    scaled = (array.astype(jnp.float32) * rest for array in made[:2])
    dx, dtable = (array.astype(like.dtype) for array, like in zip(scaled, made[:2], strict=True))
    return dx, dtable, None, None


_token_loss.defvjp(_forward, _backward)


def _whole(table_VD: jax.Array, split: int | None) -> jax.Array:
    """All features of the table on every device."""
    if split is None:
        return constrain(table_VD, "any", None)
    gather = partial(gathered, dim=split)
    lies, whole = weight_lies(split), PartitionSpec()
    return jax.shard_map(gather, in_specs=lies, out_specs=whole, check_vma=False)(table_VD)


def _summed(table_GDV: jax.Array, split: int | None) -> jax.Array:
    """`[D, V]`, added up over groups of rows."""
    if split is None:
        return jnp.sum(table_GDV, axis=0)
    turned = 1 - split
    add = jax.shard_map(
        lambda table_1DV: scattered(table_1DV[0], turned),
        in_specs=PartitionSpec(BATCH_AXES),
        out_specs=split_along(turned),
        check_vma=False,
    )
    return add(table_GDV)


def _lies_apart(table: jax.Array) -> jax.Array:
    """A table for each group of rows `[G, D, V]` lies where these rows do; `[D, V]` as it may."""
    return constrain(table, "batch", "any", "any") if table.ndim == 3 else table


def _chunk(
    x_BCD: jax.Array, table_VD: jax.Array, labels_BC: jax.Array, terms: LossTerms, cap: float | None
) -> tuple[TokenLoss, jax.Array]:
    """A chunk's loss and its gradient in the uncapped logits, in the format of `x_BCD`.

    The gradient is that of the loss times `terms.scale`.
    """
    weights, smoothing, z_loss, scale = terms
    scores_BCV = logits(x_BCD, table_VD, cap=cap)
    softmax = Softmax.of(scores_BCV)
    tokens = statistics_of(scores_BCV, labels_BC, softmax)
    spread_BC = tokens.log_partition - tokens.mean_logit
    each_BC = (1.0 - smoothing) * tokens.nll + smoothing * spread_BC
    each_BC += z_loss * jnp.square(tokens.log_partition)
    size = scores_BCV.shape[-1]
    scaled_BC = weights * scale
    push_BC = scaled_BC * (1.0 + 2.0 * z_loss * tokens.log_partition)
    slope_BCV = softmax.raised_BCV * (push_BC[..., None] / softmax.sum_BC1)
    is_label_BCV = jnp.arange(size, dtype=labels_BC.dtype)[None, None] == labels_BC[..., None]
    pull_BC1, spread_BC1 = ((scaled_BC * share)[..., None] for share in (1 - smoothing, smoothing))
    slope_BCV -= jnp.where(is_label_BCV, pull_BC1, 0.0) + spread_BC1 / size
    if cap is not None:
        slope_BCV *= 1.0 - jnp.square(scores_BCV / cap)
    return TokenLoss(jnp.sum(weights * each_BC), tokens), slope_BCV.astype(x_BCD.dtype)
