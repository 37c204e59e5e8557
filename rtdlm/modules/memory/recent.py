"""The short convolutions of memory, which go on across the end of a segment.

What a memory is written under, and asked for with, is made of a token and those just before it; at
a segment's first tokens these stand in the segment before. So the last W - 1 projected queries,
keys and values are carried along, with the document that each is of.

Axes: B batch, T time, J = W - 1 tokens back, H heads, E head features.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rtdlm.modules.memory.tokens import Tokens
from rtdlm.modules.primitives import ShortConv, packed_past


class Recent(NamedTuple):
    """What stood last, newest at the end; zeros where nothing did."""

    query_BJHE: jax.Array
    key_BJHE: jax.Array
    value_BJHE: jax.Array
    label_BJ: jax.Array
    """int32; document of each token, 0 where there is none."""

    @classmethod
    def empty(cls, *shape: int, dtype: jnp.dtype) -> "Recent":
        """For `shape`: (layers,) batch, tokens, heads, features."""
        heads = jnp.zeros(shape, dtype)
        return cls(heads, heads, heads, jnp.zeros(shape[:-2], jnp.int32))


def convolved(
    x: Mapping[str, jax.Array], recent: Recent, tokens: Tokens
) -> tuple[dict[str, jax.Array], Recent]:
    """Queries, keys and values `[B, T, H, E]` with their convolutions, and what is then recent.

    Args:
        x: `queries`, `keys` and `values`, as projected.
        recent: what stood before them.
        tokens: whose they are; those that count come first.
    """
    reach = recent.label_BJ.shape[1]
    label_BL = jnp.concatenate([recent.label_BJ, tokens.label_BT], axis=1)
    past = packed_past(label_BL, reach=reach)
    count_B = jnp.sum(tokens.counts_BT, axis=1, dtype=jnp.int32)
    newest = jax.vmap(lambda own, start: jax.lax.dynamic_slice_in_dim(own, start, reach))
    found, left = {}, []
    for (name, own), before in zip(x.items(), recent[:3], strict=True):
        row = jnp.concatenate([before.astype(own.dtype), own], axis=1)
        conv = ShortConv(width=reach + 1, name=f"memory_{name}_conv")
        found[name] = conv(row, past=past, state=None)[0][:, reach:]
        left.append(newest(row, count_B).astype(before.dtype))
    query, key, value = left
    return found, Recent(query, key, value, newest(label_BL, count_B))
