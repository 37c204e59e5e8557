"""Dropout that is on exactly when the caller supplies randomness."""

import haiku as hk
import jax
import jax.numpy as jnp


def dropout(x: jax.Array, *, rate: float) -> jax.Array:
    """Zeroes a share `rate` of `x` and scales the rest up, if `apply` was given a key.

    Training passes a key and evaluation passes None, so that no flag has to say which it is.
    """
    key = hk.maybe_next_rng_key() if rate > 0.0 else None
    if key is None:
        return x
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    # `hk.dropout` multiplies by the boolean, which strict dtype promotion refuses.
    return jnp.where(keep, x / (1.0 - rate), 0.0)
