"""Memory that attention itself reads: a window (Transformer-XL, arXiv 1901.02860), task tokens.

The window holds attention's own keys and values of the last W tokens before the segment, and a
query reads them in one softmax with those of its segment. Keys are kept as they are before they are
rotated, and turned anew for each segment, in which position 0 is its first token: the window's are
-W to -1, and N task tokens (`task_tokens`) stand before it, at -W-N to -W-1. Gradients go back
through both into the segments that they are of, which the first paper stops;
`memory.backprop_segments` says where.

Axes: B batch, T time, W slots of all, S tokens of a segment, K key-value heads, E features.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rtdlm.modules.memory.pending import Pending
from rtdlm.modules.memory.short_term import ShortTerm, write_window
from rtdlm.modules.memory.task_tokens import Probes
from rtdlm.modules.memory.tokens import Tokens
from rtdlm.modules.primitives import where_rows


class Attended(NamedTuple):
    """What attention reads of earlier segments; None for what it does not."""

    stm: ShortTerm | None
    mtm: ShortTerm | None

    def slots(self, tokens: Tokens, tasks: Tokens) -> tuple[ShortTerm, jax.Array]:
        """All of it, oldest first, and as bool `[B, T, W]` what a query may read.

        Args:
            tokens: the call's, by their documents.
            tasks: the same, by what meta-task memory tells apart.
        """
        parts = [(own, ids) for own, ids in ((self.mtm, tasks), (self.stm, tokens)) if own]
        slots = jax.tree.map(lambda *xs: jnp.concatenate(xs, axis=1), *[own for own, _ in parts])
        return slots, jnp.concatenate([_may_read(ids, own) for own, ids in parts], axis=2)


def pass_on(
    attended: Attended,
    pending: Pending | None,
    key_BTKE: jax.Array,
    value_BTKE: jax.Array,
    tokens: Tokens,
    *,
    probes: Probes | None,
    task_scope: str,
) -> tuple[Attended, Pending | None]:
    """What attention reads in the next call, and what waits for the segment's end.

    Args:
        attended: of what stood before the segment.
        pending: the earlier tokens of the segment; None if the call is a whole one.
        key_BTKE: of the call's tokens, without rotation.
        value_BTKE: like it.
        tokens: which they are.
        probes: write task tokens; None where there are none.
        task_scope: `document`, or `stream`, which takes all documents for one.
    """

    def write(
        attended: Attended, key_BSKE: jax.Array, value_BSKE: jax.Array, label_BS: jax.Array
    ) -> Attended:
        stm, mtm = attended
        if stm is not None:
            stm = write_window(stm, key_BSKE, value_BSKE, label_BS)
        if mtm is not None:
            assert probes is not None
            own_BS = (label_BS > 0).astype(jnp.int32) if task_scope == "stream" else label_BS
            mtm = probes(mtm, key_BSKE, value_BSKE, own_BS)
        return Attended(stm, mtm)

    if pending is None:
        return write(attended, key_BTKE, value_BTKE, tokens.label_BT), None
    pending = pending.put(key_BTKE, value_BTKE, tokens)
    complete_B = pending.complete()

    def complete(attended: Attended, pending: Pending) -> Attended:
        after = write(attended, pending.key_BSHE, pending.value_BSHE, pending.label_BS)
        return where_rows(complete_B, after, attended)

    # Of the tokens that are decoded one by one, few complete a segment.
    attended = jax.lax.cond(
        jnp.any(complete_B), complete, lambda attended, pending: attended, attended, pending
    )
    return attended, pending.without(complete_B)


def _may_read(tokens: Tokens, slots: ShortTerm) -> jax.Array:
    """bool `[B, T, W]`: the slots that hold tokens of a query's own document."""
    label_BW = slots.label_BW
    return (tokens.label_BT[..., None] == label_BW[:, None]) & (label_BW[:, None] > 0)
