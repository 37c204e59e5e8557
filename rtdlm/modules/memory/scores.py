"""What tiers share: learned numbers a head, a softmax that may say "nothing", and pooling.

Axes: B batch, S tokens, N places or probes, H heads, E features.
"""

import haiku as hk
import jax
import jax.numpy as jnp

from rtdlm.modules.primitives import dot, unit

FIRST_SCALE = 8.0
"""Scale of the product of a query and a key of length 1, before training."""


def positive(name: str, heads: int, first: float) -> jax.Array:
    """A learned number a head that stays above zero; `first` before training."""
    start = hk.initializers.Constant(jnp.log(first))
    return jnp.exp(hk.get_parameter(name, (heads,), jnp.float32, start))


def softmax_or_nothing(score: jax.Array, may: jax.Array, nothing: jax.Array) -> jax.Array:
    """Softmax in float32 over the last axis and one more place, whose weight is left out.

    Args:
        score: `[..., N]`.
        may: bool, like it; where False the weight is zero.
        nothing: score of the further place, with as many axes as `score` less the last.
    """
    score = jnp.where(may, score.astype(jnp.float32), -jnp.inf)
    top = jnp.maximum(jnp.max(score, axis=-1), nothing)[..., None]
    raised = jnp.exp(score - jax.lax.stop_gradient(top))
    none = jnp.exp(nothing[..., None] - jax.lax.stop_gradient(top))
    return raised / (jnp.sum(raised, axis=-1, keepdims=True) + none)


def pool(
    name: str, key_BSHE: jax.Array, value_BSHE: jax.Array, own_BS: jax.Array, *, probes: int
) -> tuple[jax.Array, jax.Array]:
    """Keys of length 1 and values, float32 `[B, N, H, E]`, of tokens pooled by learned probes.

        a_ns = softmax_s(c p_n k_s)        k'_n = unit(sum_s a_ns k_s)        v'_n = sum_s a_ns v_s

    Args:
        name: of the parameter p; c is that of its scale.
        key_BSHE: of length 1.
        value_BSHE: like it.
        own_BS: bool; the tokens that are pooled. Where there is none, what is returned means
            nothing.
        probes: N.
    """
    heads, features = key_BSHE.shape[2:]
    spread = hk.initializers.RandomNormal(features**-0.5)
    probe_NHE = hk.get_parameter(name, (probes, heads, features), jnp.float32, spread)
    scale_H = positive(f"{name}_scale", heads, FIRST_SCALE)
    score_BHNS = probed(key_BSHE, probe_NHE, scale_H)
    key_BNHE, value_BNHE = pooled(score_BHNS, own_BS, key_BSHE, value_BSHE)
    return unit(key_BNHE), value_BNHE


def probed(key_BSHE: jax.Array, probe_NHE: jax.Array, scale_H: jax.Array) -> jax.Array:
    """`[B, H, N, S]`: the score c p_n k_s of each probe for each key."""
    score_BHNS = dot("NHE,BSHE->BHNS", probe_NHE.astype(key_BSHE.dtype), key_BSHE)
    return score_BHNS * scale_H[None, :, None, None]


def pooled(score_BHNS: jax.Array, own_BS: jax.Array, *rows_BSHE: jax.Array) -> list[jax.Array]:
    """Of each array its means `[B, N, H, E]` in float32, by a softmax over the own tokens."""
    score_BHNS = jnp.where(own_BS[:, None, None], score_BHNS, -1e9)
    weight_BHNS = jax.nn.softmax(score_BHNS, axis=-1)
    return [
        jnp.einsum("BHNS,BSHE->BNHE", weight_BHNS, x_BSHE.astype(jnp.float32))
        for x_BSHE in rows_BSHE
    ]
