"""Features to logits: x W^T in float32, optionally soft-capped (arXiv 2408.00118, section 2).

Axes: ... any leading axes, D model, V vocabulary.
"""

import jax
import jax.numpy as jnp

from rtdlm.modules.primitives import dot


def logits(x: jax.Array, table_VD: jax.Array, *, cap: float | None) -> jax.Array:
    """`[..., D]` -> float32 `[..., V]`; products in the input's dtype, sums in float32."""
    table_VD = table_VD.astype(x.dtype)
    raw = dot("...D,VD->...V", x, table_VD)
    return soft_cap(raw, cap=cap)


def soft_cap(raw: jax.Array, *, cap: float | None) -> jax.Array:
    """cap * tanh(raw / cap), which keeps logits inside (-cap, cap); None leaves them alone."""
    return raw if cap is None else cap * jnp.tanh(raw / cap)
