"""What two tiers are made of: a matrix a head, which the delta rule writes.

Axes: B batch, H heads, E key features, F value features.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rtdlm.modules.primitives import DeltaState, where_rows


class Matrix(NamedTuple):
    """What was read, float32; zeros are nothing."""

    state_BHEF: jax.Array
    label_B: jax.Array
    """int32; the document that it is of."""

    @classmethod
    def empty(cls, *shape: int) -> "Matrix":
        """For `shape`: (layers,) batch, heads, features."""
        *rows, heads, features = shape
        state = jnp.zeros((*rows, heads, features, features), jnp.float32)
        return cls(state, jnp.zeros(rows, jnp.int32))

    def given(self, label_B: jax.Array) -> DeltaState:
        """What tokens of these documents go on from: it is nothing for another document."""
        none = jnp.zeros_like(self.state_BHEF)
        return DeltaState(where_rows(self.label_B == label_B, self.state_BHEF, none))
