"""Short-term memory: what was just read, as keys and values (arXiv 1901.02860).

The last W tokens before a segment, whole and in order. A query of the segment reads those of its
own document with a softmax of its own, beside attention within the segment:

    score_ts = c q_t k_s - m (distance of t and s) / W        a = softmax over s and nothing

with q and k of length 1 and one learned scale c, slope m and score of "nothing" a head; what
nothing gives is zero, so that an empty window reads zero. A window may be attention's instead; see
`rtdlm.modules.memory.attended`.

Axes: B batch, T time, W slots of the window, S tokens of a segment, H heads, E head features.
"""

from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from rtdlm.modules.memory.scores import FIRST_SCALE, positive, softmax_or_nothing
from rtdlm.modules.memory.tokens import Tokens
from rtdlm.modules.primitives import dot, where_rows


class ShortTerm(NamedTuple):
    """A window, oldest slot first; zeros are an empty one."""

    key_BWHE: jax.Array
    value_BWHE: jax.Array
    label_BW: jax.Array
    """int32; document of each token, 0 where there is none."""

    @classmethod
    def empty(cls, *shape: int, dtype: jnp.dtype) -> "ShortTerm":
        """For `shape`: (layers,) batch, slots, heads, features."""
        heads = jnp.zeros(shape, dtype)
        return cls(heads, heads, jnp.zeros(shape[:-2], jnp.int32))


def read_window(
    query_BTHE: jax.Array, tokens: Tokens, window: ShortTerm, *, prefix: str = "", chunk: int = 1
) -> tuple[jax.Array, jax.Array]:
    """What each query reads `[B, T, H, E]`, and the share that fell on something `[B, T, H]`.

    Args:
        query_BTHE: of length 1.
        tokens: whose queries they are.
        window: what stood before their segment.
        prefix: of the names of parameters.
        chunk: tokens that a slot stands for.
    """
    slots, heads = window.label_BW.shape[1], query_BTHE.shape[2]
    scale_H = positive(f"{prefix}scale", heads, FIRST_SCALE)
    slope_H = positive(f"{prefix}slope", heads, 1.0)
    nothing_H = hk.get_parameter(f"{prefix}nothing", (heads,), jnp.float32, jnp.zeros)
    score_BHTW = dot("BTHE,BWHE->BHTW", query_BTHE, window.key_BWHE)
    score_BHTW = score_BHTW * scale_H[None, :, None, None]
    away_W = slots - jnp.arange(slots, dtype=jnp.float32)
    away_BTW = (tokens.place_BT[..., None] / chunk + away_W[None, None]) / slots
    score_BHTW -= slope_H[None, :, None, None] * away_BTW[:, None]
    may_BTW = (tokens.label_BT[..., None] == window.label_BW[:, None]) & (
        window.label_BW[:, None] > 0
    )
    weight_BHTW = softmax_or_nothing(score_BHTW, may_BTW[:, None], nothing_H[None, :, None])
    read_BTHE = dot("BHTW,BWHE->BTHE", weight_BHTW.astype(query_BTHE.dtype), window.value_BWHE)
    share_BTH = jnp.swapaxes(jnp.sum(weight_BHTW, axis=-1), 1, 2)
    return read_BTHE.astype(query_BTHE.dtype), share_BTH


def write_window(
    window: ShortTerm, key_BSHE: jax.Array, value_BSHE: jax.Array, label_BS: jax.Array
) -> ShortTerm:
    """The window after a whole segment; one without a token, which pads a row, leaves it."""
    slots = window.label_BW.shape[1]
    moved = ShortTerm(
        *(
            jnp.concatenate([old, new.astype(old.dtype)], axis=1)[:, -slots:]
            for old, new in zip(window, (key_BSHE, value_BSHE, label_BS), strict=True)
        )
    )
    return where_rows(jnp.any(label_BS > 0, axis=1), moved, window)
