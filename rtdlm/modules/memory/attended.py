"""Short-term memory that attention itself reads, as in Transformer-XL (arXiv 1901.02860).

The window holds attention's own keys and values of the last W tokens before the segment, and a
query reads them in one softmax with those of its segment. Keys are kept as they are before they are
rotated, and turned anew for each segment, in which position 0 is its first token: the window's are
-W to -1. Gradients go back through the window into the segments that it is of, which the paper
stops; `memory.backprop_segments` says where.

Axes: B batch, T time, W slots of the window, S tokens of a segment, K key-value heads, E features.
"""

import jax
import jax.numpy as jnp

from rtdlm.modules.memory.pending import Pending
from rtdlm.modules.memory.short_term import ShortTerm, write_window
from rtdlm.modules.memory.tokens import Tokens
from rtdlm.modules.primitives import where_rows


def may_read(tokens: Tokens, window: ShortTerm) -> jax.Array:
    """bool `[B, T, W]`: the slots that hold tokens of a query's own document."""
    label_BW = window.label_BW
    return (tokens.label_BT[..., None] == label_BW[:, None]) & (label_BW[:, None] > 0)


def pass_on(
    window: ShortTerm,
    pending: Pending | None,
    key_BTKE: jax.Array,
    value_BTKE: jax.Array,
    tokens: Tokens,
) -> tuple[ShortTerm, Pending | None]:
    """The window for the next call, and what waits for the segment's end.

    Args:
        window: of what stood before the segment.
        pending: the earlier tokens of the segment; None if the call is a whole one.
        key_BTKE: of the call's tokens, without rotation.
        value_BTKE: like it.
        tokens: which they are.
    """
    if pending is None:
        return write_window(window, key_BTKE, value_BTKE, tokens.label_BT), None
    pending = pending.put(key_BTKE, value_BTKE, tokens)
    complete_B = pending.complete()

    def write(window: ShortTerm, pending: Pending) -> ShortTerm:
        after = write_window(window, pending.key_BSHE, pending.value_BSHE, pending.label_BS)
        return where_rows(complete_B, after, window)

    # Of the tokens that are decoded one by one, few complete a segment.
    window = jax.lax.cond(
        jnp.any(complete_B), write, lambda window, pending: window, window, pending
    )
    return window, pending.without(complete_B)
