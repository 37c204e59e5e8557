"""Cross-entropy and its companions for every token, without keeping the logits.

A row's logits, T x V floats, dwarf everything else in a small model. They are made `chunk_size`
positions at a time and made again in the backward pass, so that at no time more than one chunk
exists, forward or backward. All sums are float32.

Axes: B batch, T time, C positions of a chunk, D model, V vocabulary.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rtdlm.modules.head.unembed import logits


class TokenStatistics(NamedTuple):
    """What the loss and the metrics need of each token's logits; each float32 `[B, T]`.

    The last three carry no gradient.
    """

    nll: jax.Array
    """-log p(label) [nats]."""
    log_partition: jax.Array
    """log sum exp of the logits [nats]."""
    mean_logit: jax.Array
    """Mean over the vocabulary, for label smoothing [nats]."""
    top1: jax.Array
    """1 where no other logit exceeds the label's."""
    top5: jax.Array
    """1 where at most four logits exceed the label's."""
    entropy: jax.Array
    """Of the predicted distribution [nats]."""


def token_statistics(
    x_BTD: jax.Array,
    table_VD: jax.Array,
    labels_BT: jax.Array,
    *,
    cap: float | None,
    chunk_size: int,
) -> TokenStatistics:
    """Statistics of every token's next-token distribution.

    Args:
        x_BTD: final features.
        table_VD: output projection, a row a token of the vocabulary.
        labels_BT: int32 token that follows each position, already shifted.
        cap: logit soft cap, or None.
        chunk_size: positions of a row whose logits exist at one time.
    """
    length = x_BTD.shape[1]
    if length <= chunk_size:
        return _chunk(x_BTD, table_VD, labels_BT, cap)
    count = -(-length // chunk_size)
    padding = count * chunk_size - length

    def chunked(array: jax.Array) -> jax.Array:
        array = jnp.pad(array, ((0, 0), (0, padding)) + ((0, 0),) * (array.ndim - 2))
        split = array.reshape(array.shape[0], count, chunk_size, *array.shape[2:])
        return jnp.moveaxis(split, 1, 0)

    parts = jax.lax.map(
        lambda part: _chunk(part[0], table_VD, part[1], cap), (chunked(x_BTD), chunked(labels_BT))
    )

    def joined(array_NBC: jax.Array) -> jax.Array:
        array = jnp.moveaxis(array_NBC, 0, 1)
        return array.reshape(array.shape[0], -1)[:, :length]

    return jax.tree.map(joined, parts)


def _chunk(
    x_BCD: jax.Array, table_VD: jax.Array, labels_BC: jax.Array, cap: float | None
) -> TokenStatistics:
    @jax.checkpoint
    def statistics(x_BCD: jax.Array, table_VD: jax.Array) -> TokenStatistics:
        scores_BCV = logits(x_BCD, table_VD, cap=cap)
        label_BC = jnp.take_along_axis(scores_BCV, labels_BC[..., None], axis=-1)[..., 0]
        log_partition = jax.nn.logsumexp(scores_BCV, axis=-1)
        still = jax.lax.stop_gradient
        # Not `>`: where nothing is a number, nothing was predicted.
        above = jnp.sum(~(still(scores_BCV) <= still(label_BC)[..., None]), axis=-1)
        log_p = still(scores_BCV - log_partition[..., None])
        return TokenStatistics(
            nll=log_partition - label_BC,
            log_partition=log_partition,
            mean_logit=jnp.mean(scores_BCV, axis=-1),
            top1=(above < 1).astype(jnp.float32),
            top5=(above < 5).astype(jnp.float32),
            entropy=-jnp.sum(jnp.exp(log_p) * log_p, axis=-1),
        )

    return statistics(x_BCD, table_VD)
