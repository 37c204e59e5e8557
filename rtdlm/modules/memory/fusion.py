"""How what the tiers read becomes one.

    gated           y = sum_i g_i r_i        g_i = sigmoid(x W_i + b_i + logit(prior_i))
    hierarchical    y = g_1 r_1 + (1 - g_1) (g_2 r_2 + (1 - g_2) (...)), the last with what is left
    cross           y = sum_i a_i r_i        a = softmax_i(q W r_i + log prior_i)
    mixed           y = gated + prod_i (1 - g_i h_i) y'

for every head; x is the layer's input, q the token's query. In the last one heads are attention's,
y' is what they read themselves and h_i is the share of the tier's reading that falls on something,
1 of a matrix, which always says something: what is remembered takes the place of what is near, as
in Memorizing Transformers (arXiv 2203.08913) and Infini-attention (arXiv 2404.07143). Where a store
or a window has nothing to say attention is as it was.

Axes: B batch, T time, D model, H heads, E features, N tiers.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from rtdlm.modules.primitives import Projection


def fuse(
    x_BTD: jax.Array,
    query_BTHE: jax.Array,
    reads: Sequence[jax.Array],
    *,
    priors: Sequence[float],
    how: str,
) -> tuple[jax.Array, jax.Array]:
    """The sum `[B, T, H, E]`, and the share of each tier in it, float32 `[B, T, H, N]`.

    Args:
        x_BTD: the layer's input.
        query_BTHE: queries of length 1.
        reads: what each tier gave, `[B, T, H, E]`.
        priors: in (0, 1), the share of each before training.
        how: `gated`, `hierarchical`, `cross`, or `mixed`, whose sum is that of `gated`.
    """
    read_BTHNE = jnp.stack(reads, axis=3)
    share_BTHN = _shares(x_BTD, query_BTHE, read_BTHNE, np.asarray(priors, np.float32), how)
    fused = jnp.einsum("BTHN,BTHNE->BTHE", share_BTHN.astype(read_BTHNE.dtype), read_BTHNE)
    return fused, share_BTHN


def left_of_attention(share_BTHN: jax.Array, found: Sequence[jax.Array | None]) -> jax.Array:
    """What `mixed` leaves of attention's own reading, float32 `[B, T, H]`.

    Args:
        share_BTHN: of each tier, as `fuse` says it.
        found: of each tier the share `[B, T, H]` of its reading that fell on something; None is
            all of it.
    """
    left_BTH = jnp.ones(share_BTHN.shape[:3], jnp.float32)
    for place, found_BTH in enumerate(found):
        taken_BTH = share_BTHN[..., place]
        left_BTH *= 1 - (taken_BTH if found_BTH is None else taken_BTH * found_BTH)
    return left_BTH


def _shares(
    x_BTD: jax.Array, query_BTHE: jax.Array, read_BTHNE: jax.Array, prior_N: np.ndarray, how: str
) -> jax.Array:
    heads, tiers, features = read_BTHNE.shape[2:]
    if how == "cross":
        shape = (heads, features, features)
        asked = Projection("BTHE,HEF->BTHF", shape=shape, name="across")(query_BTHE)
        score = jnp.einsum("BTHE,BTHNE->BTHN", asked, read_BTHNE).astype(jnp.float32)
        return jax.nn.softmax(score + np.log(prior_N)[None, None, None], axis=-1)
    # The last of a hierarchy takes what is left.
    count = tiers - 1 if how == "hierarchical" and tiers > 1 else tiers
    shape = (x_BTD.shape[-1], heads, count)
    opened = Projection("BTD,DHN->BTHN", shape=shape, bias=True, name="gates")(x_BTD)
    logit_N = np.log(prior_N / (1 - prior_N))[:count]
    gate_BTHN = jax.nn.sigmoid(opened.astype(jnp.float32) + logit_N[None, None, None])
    if count == tiers:
        return gate_BTHN
    closed_BTHN = jnp.cumprod(1 - gate_BTHN, axis=-1)
    one_BTH1 = jnp.ones_like(closed_BTHN[..., :1])
    left_BTHN = jnp.concatenate([one_BTH1, closed_BTHN], axis=-1)
    return jnp.concatenate([gate_BTHN, one_BTH1], axis=-1) * left_BTHN
