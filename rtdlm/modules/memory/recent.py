"""The short convolutions of memory, which go on across the end of a segment.

What a memory is written under, and asked for with, is made of a token and those just before it; at
a segment's first tokens these stand in the segment before. So the last W - 1 projected queries,
keys and values are carried along, with the document that each is of.

Axes: B batch, T time, J = W - 1 tokens back, L = J + T, H heads, E head features.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rtdlm.modules.memory.tokens import Tokens
from rtdlm.modules.primitives import Past, ShortConv, look_back, packed_past


class MemoryHeads(NamedTuple):
    """Of each token, `[B, T, H, E]`; of those that stood last, J in place of T."""

    query: jax.Array
    key: jax.Array
    value: jax.Array


class Recent(NamedTuple):
    """What stood last, newest at the end; zeros where nothing did."""

    heads: MemoryHeads
    """As projected, without convolution."""
    label_BJ: jax.Array
    """int32; document of each token, 0 where there is none."""

    @classmethod
    def empty(cls, *shape: int, dtype: jnp.dtype) -> "Recent":
        """For `shape`: (layers,) batch, tokens, heads, features."""
        heads = jnp.zeros(shape, dtype)
        return cls(MemoryHeads(heads, heads, heads), jnp.zeros(shape[:-2], jnp.int32))


def convolved(heads: MemoryHeads, recent: Recent, tokens: Tokens) -> tuple[MemoryHeads, Recent]:
    """`heads` with their convolutions, and what is recent after them.

    Args:
        heads: of the tokens of a call, as projected.
        recent: what stood before them.
        tokens: which they are.
    """
    past, label_BJ = continued(tokens, recent.label_BJ)

    def convolve(name: str, x: jax.Array, before: jax.Array) -> tuple[jax.Array, jax.Array]:
        y, after = ShortConv(width=before.shape[1] + 1, name=name)(x, past=past, state=before)
        assert after is not None
        return y, after

    before = recent.heads
    query, last_query = convolve("memory_queries_conv", heads.query, before.query)
    key, last_key = convolve("memory_keys_conv", heads.key, before.key)
    value, last_value = convolve("memory_values_conv", heads.value, before.value)
    return MemoryHeads(query, key, value), Recent(
        MemoryHeads(last_query, last_key, last_value), label_BJ
    )


def continued(tokens: Tokens, label_BJ: jax.Array) -> tuple[Past, jax.Array]:
    """The past of tokens that go on after those of `label_BJ`, and the labels of the last J then.

    `label_BJ` is the document of each of the J tokens that stood last, 0 where there was none.
    """
    reach, length = label_BJ.shape[1], tokens.label_BT.shape[1]
    label_BL = jnp.concatenate([label_BJ, tokens.label_BT], axis=1)
    same_BLJ = packed_past(label_BL, reach=reach).same_BTJ
    assert same_BLJ is not None
    # Behind the last token that counts there is nothing to go on from.
    behind_B = jnp.max(jnp.where(tokens.counts_BT, jnp.arange(1, length + 1)[None], 0), axis=1)
    past = Past(same_BLJ[:, reach:], behind_B)
    _, newest_BJ = look_back(tokens.label_BT, past, reach=reach, state=label_BJ)
    assert newest_BJ is not None
    return past, newest_BJ
