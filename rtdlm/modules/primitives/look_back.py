"""What stood at the last tokens of the same document, in a packed row or in decoding.

A packed row holds its past itself, and segments say where a document begins. In decoding the past
is explicit state, the last J inputs of each row, and rows of a batch advance by different numbers
of tokens: what stands beyond a row's own number is padding and leaves no trace.

Axes: B batch, T time, J tokens back (of one module, J is the most that it looks back).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Past(NamedTuple):
    """Which earlier tokens belong to a token; the same for every convolution of a model but those
    of memory. Where convolutions go on from call to call and know documents, both fields are there.
    """

    same_BTJ: jax.Array | None
    """bool; True where the token 1, 2, ... places back is of the same document. None in decoding,
    where each row is one document."""
    lengths_B: jax.Array | None
    """int32; tokens of each row that count, the first ones. None where rows are whole."""


def packed_past(segment_ids_BT: jax.Array, *, reach: int) -> Past:
    """The past of packed rows, up to `reach` tokens back."""
    length = segment_ids_BT.shape[1]
    # No segment is -1, so that nothing before the row is of any document.
    before = jnp.pad(segment_ids_BT, ((0, 0), (reach, 0)), constant_values=-1)
    earlier = [before[:, reach - back : reach - back + length] for back in range(1, reach + 1)]
    return Past(jnp.stack(earlier, axis=-1) == segment_ids_BT[:, :, None], None)


def look_back(
    x: jax.Array, past: Past, *, reach: int, state: jax.Array | None
) -> tuple[list[jax.Array], jax.Array | None]:
    """`x` as it is, then one token back, and so on up to `reach`; zero before a document's start.

    Args:
        x: `[B, T, ...]`.
        past: which tokens belong together.
        reach: how far to look back, at least 1 [tokens].
        state: `[B, reach, ...]`, what stood before `x`, zeros at a document's start; None takes
            `x` for whole rows.

    Returns:
        `reach + 1` arrays like `x`, and the state after the tokens that count.
    """
    seen = earlier(x, past.same_BTJ, reach=reach, before=state)
    if state is None:
        assert past.same_BTJ is not None
        return seen, None
    assert past.lengths_B is not None
    return seen, newest(x, past.lengths_B, state=state)


def earlier(
    x: jax.Array, same_BTJ: jax.Array | None, *, reach: int, before: jax.Array | None
) -> list[jax.Array]:
    """What `look_back` sees; `before` is the state, None for zeros."""
    length = x.shape[1]
    if before is None:
        before = jnp.zeros_like(x, shape=(x.shape[0], reach, *x.shape[2:]))
    row = jnp.concatenate([before.astype(x.dtype), x], axis=1)
    seen = [row[:, reach - back : reach - back + length] for back in range(reach + 1)]
    if same_BTJ is not None:
        same = same_BTJ.reshape(same_BTJ.shape + (1,) * (x.ndim - 2))
        seen[1:] = [jnp.where(same[:, :, back], seen[back + 1], 0) for back in range(reach)]
    return seen


def newest(x: jax.Array, lengths_B: jax.Array, *, state: jax.Array) -> jax.Array:
    """The state after the first `lengths_B` tokens of each row."""
    row = jnp.concatenate([state.astype(x.dtype), x], axis=1)
    reach = state.shape[1]
    taken = jax.vmap(lambda own, start: jax.lax.dynamic_slice_in_dim(own, start, reach))
    return taken(row, lengths_B).astype(state.dtype)
