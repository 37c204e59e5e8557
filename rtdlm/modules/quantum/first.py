"""Where a trained circuit's parameters begin: angles near 0, weights of features near 1.

With angles drawn evenly, gradients of a deep circuit vanish exponentially in the number of qubits
(arXiv 1803.11173), which a start near the identity avoids (arXiv 1903.05076). A weight near 0 would
keep the data out.
"""

from collections.abc import Callable
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from rtdlm.modules.quantum.circuit import Circuit

SPREAD = 0.1
"""Standard deviation of the first parameters, radians."""


def first_angles(circuit: Circuit) -> Callable[..., jax.Array]:
    """Draws the parameters `[num_rounds, num_params]` of a circuit, as Haiku asks for them."""
    centre_P = np.zeros(circuit.num_params)
    angles = [angle for each in circuit.ops for angle in each.angles]
    centre_P[[angle.weight for angle in angles if angle.weight is not None]] = 1.0

    def draw(shape: tuple[int, ...], dtype: Any) -> jax.Array:
        noise = jax.random.normal(hk.next_rng_key(), shape, dtype)
        return jnp.asarray(centre_P, dtype)[None] + SPREAD * noise

    return draw
