"""What joins a layer's values beside its own projection.

    v <- a v + b v_1 + c e        (each where it is on, with learned a, b, c a layer)

v_1 are the first layer's values (value residual, arXiv 2410.17897) and e a vector of the token's
own (value embeddings, as in modded-nanogpt). a and b start at one half with v_1, else at one; c
starts at one. The first layer mixes v_1 with itself.

Axes: B batch, T time, K key-value heads, E head features.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rtdlm.modules.primitives import Mix


class ValueSources(NamedTuple):
    """What the values are mixed with; None is off."""

    first_BTKE: jax.Array | None = None
    """Values of the first layer, anything in that layer itself."""
    is_first: jax.Array | None = None
    """bool scalar: this is the first layer. Read only with `first_BTKE`."""
    embedding_BTKE: jax.Array | None = None


OWN_VALUES = ValueSources()


def mix_values(value_BTKE: jax.Array, sources: ValueSources) -> tuple[jax.Array, jax.Array | None]:
    """The mixed values, and the first layer's as the next layer needs them."""
    parts, initial, first = [value_BTKE], [1.0], None
    if sources.first_BTKE is not None:
        assert sources.is_first is not None
        first = jnp.where(sources.is_first, value_BTKE, sources.first_BTKE)
        parts, initial = [value_BTKE, first], [0.5, 0.5]
    if sources.embedding_BTKE is not None:
        parts, initial = [*parts, sources.embedding_BTKE], [*initial, 1.0]
    if len(parts) == 1:
        return value_BTKE, None
    return Mix(initial=tuple(initial), name="value_mix")(*parts), first
