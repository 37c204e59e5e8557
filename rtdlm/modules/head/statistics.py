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
    parts = jax.lax.map(
        lambda part: _chunk(part[0], table_VD, part[1], cap),
        (chunked(x_BTD, chunk_size), chunked(labels_BT, chunk_size)),
    )
    return jax.tree.map(lambda array: joined(array, length), parts)


def chunked(array_BT: jax.Array, size: int) -> jax.Array:
    """`[B, T, ...]` -> `[N, B, size, ...]`, the last of N chunks filled up with zeros."""
    batch, length, *rest = array_BT.shape
    count = -(-length // size)
    padding = ((0, 0), (0, count * size - length)) + ((0, 0),) * len(rest)
    return jnp.moveaxis(jnp.pad(array_BT, padding).reshape(batch, count, size, *rest), 1, 0)


def joined(array_NBC: jax.Array, length: int) -> jax.Array:
    """`[N, B, size, ...]` -> `[B, length, ...]`; undoes `chunked`."""
    array = jnp.moveaxis(array_NBC, 0, 1)
    return array.reshape(array.shape[0], -1, *array.shape[3:])[:, :length]


def _chunk(
    x_BCD: jax.Array, table_VD: jax.Array, labels_BC: jax.Array, cap: float | None
) -> TokenStatistics:
    @jax.checkpoint
    def statistics(x_BCD: jax.Array, table_VD: jax.Array) -> TokenStatistics:
        scores_BCV = logits(x_BCD, table_VD, cap=cap)
        return statistics_of(scores_BCV, labels_BC, Softmax.of(scores_BCV))

    return statistics(x_BCD, table_VD)


class Softmax(NamedTuple):
    """exp(logits - largest) and its sum: a distribution before it is divided."""

    raised_BCV: jax.Array
    sum_BC1: jax.Array
    largest_BC1: jax.Array

    @classmethod
    def of(cls, scores_BCV: jax.Array) -> "Softmax":
        """The distribution of these logits."""
        largest = jax.lax.stop_gradient(jnp.max(scores_BCV, axis=-1, keepdims=True))
        raised = jnp.exp(scores_BCV - largest)
        return cls(raised, jnp.sum(raised, axis=-1, keepdims=True), largest)


def statistics_of(scores_BCV: jax.Array, labels_BC: jax.Array, softmax: Softmax) -> TokenStatistics:
    """Statistics of logits that are at hand, and of their softmax."""
    label_BC = jnp.take_along_axis(scores_BCV, labels_BC[..., None], axis=-1)[..., 0]
    raised, total, largest = softmax
    log_partition = (jnp.log(total) + largest)[..., 0]
    still = jax.lax.stop_gradient
    # Not `>`: where nothing is a number, nothing was predicted.
    above = ~(still(scores_BCV) <= still(label_BC)[..., None])
    # As numbers: XLA for CPUs adds up booleans far more slowly.
    above = jnp.sum(above.astype(jnp.float32), axis=-1)
    # Where p is 0 a logit may be as low as it likes.
    seen = jnp.where(raised > 0.0, raised * (scores_BCV - largest), 0.0)
    entropy = jnp.log(total[..., 0]) - jnp.sum(seen, axis=-1) / total[..., 0]
    return TokenStatistics(
        nll=log_partition - label_BC,
        log_partition=log_partition,
        mean_logit=jnp.mean(scores_BCV, axis=-1),
        top1=(above < 1).astype(jnp.float32),
        top5=(above < 5).astype(jnp.float32),
        entropy=still(entropy),
    )
