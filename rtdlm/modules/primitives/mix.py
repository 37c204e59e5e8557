"""A sum of arrays with learned weights: y = sum_i w_i x_i."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np


class Mix(hk.Module):
    """Adds arrays of one shape, each times a scalar of its own."""

    def __init__(self, *, initial: tuple[float, ...], name: str) -> None:
        """`initial` has the weight of each array before training."""
        super().__init__(name=name)
        self.initial = initial

    def __call__(self, *parts: jax.Array) -> jax.Array:
        """As many arrays as there are weights, in their order; their dtype is kept."""
        assert len(parts) == len(self.initial)
        start = hk.initializers.Constant(np.array(self.initial))
        weights = hk.get_parameter("weights", (len(parts),), jnp.float32, start)
        weights = weights.astype(parts[0].dtype)
        y = weights[0] * parts[0]
        for place, part in enumerate(parts[1:], start=1):
            y = y + weights[place] * part
        return y
