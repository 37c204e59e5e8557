"""Exact top-k reading of an episodic store (Memorizing Transformers, arXiv 2203.08913).

    score_tm = scale_h q_t k_m                                of unit queries and keys
    C_t      = the top_k slots m of largest score             that query t may read
    y_t      = sum_{m in C_t} e^score_tm v_m / (e^null_h + sum_{m in C_t} e^score_tm)

The null slot has a learned score and the value zero, so that an empty store reads exactly zero.
With a slope, what is older counts less: score_tm falls by slope_h log(age_tm / 64), a distance as
in KERPLE (arXiv 2205.09921), where the paper's store knows of no order.

Scores and weights are dense, float32 [B, H, T, M]: two products of 2 T M E operations a head, and
passes that find the k best; see `primitives.largest`. Gathering the k rows instead costs more time
up to 16 thousand slots at least. Split more slots over devices, or the queries over calls.

Axes: B batch, T query time, M slots, H heads, E head features.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rtdlm.modules.memory.store import Store
from rtdlm.modules.primitives import AxisName, dot, largest

REFERENCE_AGE = 64
"""Age at which a slope changes nothing, so that before training the null slot, at score 0, stands
against what is about so old [tokens]."""
FIRST_SLOPE = 2.0
"""Fall of a score with the logarithm of age, before training."""


class Reading(NamedTuple):
    """What was read, and from where."""

    read_BTHE: jax.Array
    """In the queries' format; zero where nothing may be read."""
    used_BM: jax.Array
    """float32; weight on each slot, the mean over heads, summed over queries; for `mark_used`."""
    hit_BTH: jax.Array
    """float32; weight on slots, in [0, 1): what is left of 1 is on the null slot."""


def read_store(
    query_BTHE: jax.Array,
    store: Store,
    label_BT: jax.Array,
    *,
    top_k: int,
    scale_H: jax.Array,
    null_H: jax.Array,
    any_label: bool,
    counts_BT: jax.Array | None = None,
    slope_H: jax.Array | None = None,
    place_BT: jax.Array | None = None,
    axis: AxisName | None = None,
) -> Reading:
    """What each query reads, each head by itself.

    No gradient is stopped here but that of the choice: the caller says whether slots are constants.

    Args:
        query_BTHE: queries of unit length.
        store: see above.
        label_BT: int32 document of each query, which reads slots of its own document; 0, padding,
            reads nothing.
        top_k: slots that a head of a query reads, at least 1; of equal scores the first slots.
        scale_H: float32 factor of the cosines.
        null_H: float32 score of the null slot.
        any_label: whether a query reads all documents.
        counts_BT: False for queries whose reading is no use of a slot; None is none.
        slope_H: float32 fall of a score with the logarithm of the slot's age; None is no fall.
        place_BT: int32 tokens since the store was written, for ages; read only with `slope_H`.
        axis: mesh axis or axes along which slots are split, inside `shard_map`; `used_BM` is then
            of the device's own slots, all else the same on every device.
    """
    dtype = query_BTHE.dtype
    filled = (label_BT > 0)[:, :, None] & (store.label_BM > 0)[:, None]
    same = label_BT[:, :, None] == store.label_BM[:, None]
    may = (filled if any_label else filled & same)[:, None]
    cosines_BHTM = dot("BTHE,BMHE->BHTM", query_BTHE, store.key_BMHE.astype(dtype))
    scores = cosines_BHTM * scale_H[None, :, None, None]
    if slope_H is not None:
        assert place_BT is not None
        age_BTM = place_BT[..., None] + 1 + store.age_BM[:, None]
        far_BTM = jnp.log(jnp.maximum(age_BTM, 1).astype(jnp.float32) / REFERENCE_AGE)
        scores -= slope_H[None, :, None, None] * far_BTM[:, None]
    scores = jnp.where(may, scores, -jnp.inf)
    chosen = largest(scores, top_k, axis=axis)
    null_1H11 = null_H[None, :, None, None]
    best = jnp.max(jax.lax.stop_gradient(scores), axis=-1, keepdims=True)
    top = jnp.maximum(_over(axis, jax.lax.pmax, best), jax.lax.stop_gradient(null_1H11))
    # Masked before the exponential, whose slope at -inf would be no number.
    weights = jnp.where(chosen, jnp.exp(jnp.where(chosen, scores, 0.0) - top), 0.0)
    own = jnp.sum(weights, axis=-1, keepdims=True)
    total = jnp.exp(null_1H11 - top) + _over(axis, jax.lax.psum, own)
    weights = weights / total
    read = dot("BHTM,BMHE->BTHE", weights.astype(dtype), store.value_BMHE.astype(dtype))
    used_BTM = jnp.mean(weights, axis=1)
    if counts_BT is not None:
        used_BTM = jnp.where(counts_BT[..., None], used_BTM, 0.0)
    return Reading(
        _over(axis, jax.lax.psum, read).astype(dtype),
        jnp.sum(used_BTM, axis=1),
        _over(axis, jax.lax.psum, jnp.sum(weights, axis=-1)).swapaxes(1, 2),
    )


def _over(
    axis: AxisName | None, join: Callable[[jax.Array, AxisName], jax.Array], x: jax.Array
) -> jax.Array:
    """What all devices along the axis have together."""
    return x if axis is None else join(x, axis)
