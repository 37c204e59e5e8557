"""Long-term memory in summaries: every chunk of a segment leaves one key and one value behind.

The last N chunks are kept, so that N C tokens are within reach at the cost of N: contexts beyond
all windows, as in the Compressive Transformer (arXiv 1911.05507), but trained by what reads them
instead of by a loss of compression. A chunk of C tokens is pooled by a learned probe a head (see
`rtdlm.modules.memory.scores.pool`), of its last document alone, and read as a window of tokens is.

Axes: B batch, S tokens of a segment, M chunks of it, C tokens of a chunk, H heads, E head features.
"""

import jax
import jax.numpy as jnp

from rtdlm.modules.memory.scores import pool
from rtdlm.modules.memory.short_term import ShortTerm, read_window, write_window
from rtdlm.modules.memory.tokens import Tokens, last_label


def read_summaries(
    query_BTHE: jax.Array, tokens: Tokens, kept: ShortTerm, *, chunk: int
) -> tuple[jax.Array, jax.Array]:
    """What each query reads `[B, T, H, E]`, and the share that fell on something `[B, T, H]`."""
    return read_window(query_BTHE, tokens, kept, prefix="summary_", chunk=chunk)


def write_summaries(
    kept: ShortTerm,
    key_BSHE: jax.Array,
    value_BSHE: jax.Array,
    label_BS: jax.Array,
    *,
    chunk: int,
) -> ShortTerm:
    """What is kept after a whole segment; the last chunk may be a part of one."""
    batch, length = label_BS.shape

    def in_chunks(x: jax.Array) -> jax.Array:
        """`[B * M, C, ...]`"""
        pad = [(0, 0)] * x.ndim
        pad[1] = (0, -length % chunk)
        return jnp.pad(x, pad).reshape(-1, chunk, *x.shape[2:])

    label_RC = in_chunks(label_BS)
    label_R = last_label(label_RC, label_RC > 0, jnp.zeros(len(label_RC), jnp.int32))
    own_RC = (label_RC == label_R[:, None]) & (label_RC > 0)
    key_R1HE, value_R1HE = pool(
        "summary_probe", in_chunks(key_BSHE), in_chunks(value_BSHE), own_RC, probes=1
    )

    def of_rows(x: jax.Array) -> jax.Array:
        return x.reshape(batch, -1, *x.shape[2:])

    return write_window(kept, of_rows(key_R1HE), of_rows(value_R1HE), label_R.reshape(batch, -1))
