"""cuDNN's fused attention where it is at hand: FlashAttention on NVIDIA GPUs (arXiv 2205.14135).

Whether it serves is decided while the program is traced, from the default device, the formats and
the shapes, so that every other program is what it was. It never keeps scores, but the mask becomes
an array of `[B, 1, T, S]` in the queries' format.

Axes: B batch, T query time, S key time, H heads, K key-value heads, E head features.
"""

import jax
import jax.numpy as jnp

OLDEST_CAPABILITY = 8.0
"""Ampere; older GPUs have no fused attention."""
WIDEST_HEAD = 128


def fused_attention_serves(query_BTHE: jax.Array, key_BSKE: jax.Array) -> bool:
    """Whether `attend_fused` can compute attention of these shapes and formats here."""
    width, lengths = query_BTHE.shape[-1], (query_BTHE.shape[1], key_BSKE.shape[1])
    return (
        query_BTHE.dtype in (jnp.bfloat16, jnp.float16)
        and key_BSKE.dtype == query_BTHE.dtype
        and width <= WIDEST_HEAD
        and width % 8 == 0
        # With a mask cuDNN differentiates even lengths only.
        and all(length % 2 == 0 for length in lengths)
        and _has_cudnn()
    )


def _has_cudnn() -> bool:
    """Whether the default device is an NVIDIA GPU that cuDNN's fused attention runs on."""
    device = jax.devices()[0]
    if device.platform != "gpu" or "cuda" not in device.client.platform_version:
        return False
    return float(device.compute_capability) >= OLDEST_CAPABILITY


def attend_fused(
    query_BTHE: jax.Array,
    key_BSKE: jax.Array,
    value_BSKE: jax.Array,
    mask_BTS: jax.Array,
    *,
    causal: bool,
) -> jax.Array:
    """`attend` by cuDNN; only where `fused_attention_serves`.

    `causal` says that S is T and `mask_BTS` False above its diagonal, which is then never computed.
    """
    return jax.nn.dot_product_attention(
        query_BTHE,
        key_BSKE,
        value_BSKE,
        mask=mask_BTS[:, None],
        is_causal=causal,
        implementation="cudnn",
    )
