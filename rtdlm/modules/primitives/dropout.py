"""Dropout that is on exactly when the caller supplies randomness."""

import haiku as hk
import jax


def dropout(x: jax.Array, *, rate: float) -> jax.Array:
    """Zeroes a share `rate` of `x` and scales the rest up, if `apply` was given a key.

    Training passes a key and evaluation passes None, so that no flag has to say which it is.
    """
    key = hk.maybe_next_rng_key() if rate > 0.0 else None
    return x if key is None else hk.dropout(key, rate, x)
