"""How the tiers score what they read: learned numbers a head, and a softmax that may say "nothing".

Axes: N places.
"""

import haiku as hk
import jax
import jax.numpy as jnp

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
