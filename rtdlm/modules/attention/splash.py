"""Attention on TPUs by a kernel that keeps no scores: JAX's splash attention, in Pallas.

    y_t = sum_s softmax_s(q_t k_s / sqrt(E)) v_s,   t - window < s <= t, s in t's own document

FlashAttention (arXiv 2205.14135) over tiles of queries and keys, of which those that no query may
read are not computed: the causal half, and what lies before a window. The kernels, forward and
backward, are `jax.experimental.pallas.ops.tpu.splash_attention`; sums are float32.

Whether they serve is decided while the program is traced, from the platform of the mesh, the
formats and the shapes, so that every other program is what it was.

Axes: B batch, T time, H heads, K key-value heads, E head features.
"""

from typing import Any

import jax
import jax.numpy as jnp

from rtdlm.modules.attention.scoring import PLAIN, Scoring
from rtdlm.parallel import target_platform

LANES = 128
"""Tiles are multiples of it, and so must rows be."""
LARGEST_TILE = 512
"""Queries, and keys, that are computed together; the size that MaxText takes."""


def splash_serves(query_BTHE: jax.Array, scoring: Scoring) -> bool:
    """Whether `attend_splash` is how such queries should read here.

    Heads may have any number of features: fewer than 128 fill their lanes in part, as they do in
    any product on a TPU.
    """
    return target_platform() == "tpu" and admits(query_BTHE, scoring)


def admits(query_BTHE: jax.Array, scoring: Scoring) -> bool:
    """Whether the kernels can compute it, wherever that is.

    Float32 has none of it: there `jax_default_matmul_precision` says how precise products are,
    which the kernels do not ask.
    """
    return (
        query_BTHE.dtype == jnp.bfloat16
        and query_BTHE.shape[1] % LANES == 0
        and scoring.slopes_H is None
    )


def attend_splash(
    query_BTHE: jax.Array,
    key_BTKE: jax.Array,
    value_BTKE: jax.Array,
    segment_ids_BT: jax.Array,
    *,
    window: int | None = None,
    scoring: Scoring = PLAIN,
) -> jax.Array:
    """What each query reads of itself and the tokens of its document before it.

    Off a TPU the kernels are interpreted, tile by tile, which is for tests.

    Args:
        query_BTHE: queries; H is a multiple of K, T of 128.
        key_BTKE: keys of the same row.
        value_BTKE: values of the same row.
        segment_ids_BT: int32 document of each token; only its own is read.
        window: tokens read, at least 1; None is all.
        scoring: how a query and a key become a score; without slopes.

    Returns:
        `[B, T, H, E]` in the input's format.
    """
    length, heads, width = query_BTHE.shape[1:]
    query = query_BTHE * jnp.asarray(scoring.scale_for(width), query_BTHE.dtype)
    if window is not None and window >= length:
        window = None
    kernel = _kernel(length, heads, window, scoring.soft_cap, target_platform() != "tpu")
    by_head = (jnp.swapaxes(x, 1, 2) for x in (query, key_BTKE, value_BTKE))
    read_BHTE: jax.Array = jax.vmap(kernel)(*by_head, segment_ids_BT)
    return jnp.swapaxes(read_BHTE, 1, 2)


def tile(length: int, window: int | None) -> int:
    """Queries of a tile, and keys: the most that divide the row and do not exceed the window.

    A tile that is larger than the window would be computed for keys that nobody reads.
    """
    most = LARGEST_TILE if window is None else min(LARGEST_TILE, max(window, LANES))
    return next(size for size in (512, 256, LANES) if size <= most and length % size == 0)


def _kernel(
    length: int, heads: int, window: int | None, soft_cap: float | None, interpret: bool
) -> Any:
    """The kernels for one row, as a function of queries, keys, values and segments by head.

    JAX makes the table of tiles from all pairs of a query and a key, once a process: that takes
    seconds from T = 16,384 on.
    """
    # Imported where there is use for it: it takes a fifth of a second.
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    shape, size = (length, length), tile(length, window)
    mask: Any = splash.CausalMask(shape)
    if window is not None:
        mask = splash.LocalMask(shape, window_size=(window - 1, 0), offset=0)
    kernel = splash.make_splash_mha(
        splash.MultiHeadMask([mask] * heads),
        block_sizes=splash.BlockSizes(size, size, size, size, size, size, size, size),
        head_shards=1,
        q_seq_shards=1,
        attn_logits_soft_cap=soft_cap,
        interpret=interpret,
    )

    def read(
        query_HTE: jax.Array, key_KTE: jax.Array, value_KTE: jax.Array, segment_ids_T: jax.Array
    ) -> Any:
        segments = splash.SegmentIds(segment_ids_T, segment_ids_T)
        return kernel(query_HTE, key_KTE, value_KTE, segments)

    return read
