"""Consolidation: what was read most often is told to the slow memory before it may give way.

The episodic store's rows of largest use are written into the recurrent matrix once more, by the
delta rule at full strength and without decay: a pair that the matrix knows already changes nothing.

Axes: B batch, N replayed rows, H heads, E head features.
"""

import jax.numpy as jnp

from rtdlm.modules.memory.matrix import Matrix
from rtdlm.modules.memory.store import Store, consolidation_rows
from rtdlm.modules.primitives import DeltaState, gated_delta


def consolidated(store: Store, recurrent: Matrix, *, rows: int) -> Matrix:
    """The matrix after it was told the store's `rows` most read rows; none that nobody read."""
    key_BNHE, value_BNHE, used_BN = consolidation_rows(store, rows)
    heads, weight_BN = key_BNHE.shape[2], (used_BN > 0).astype(jnp.float32)
    write_BNH = jnp.repeat(weight_BN[..., None], heads, axis=2)
    one_BN = jnp.ones(weight_BN.shape, jnp.int32)
    _, after = gated_delta(
        key_BNHE, key_BNHE, value_BNHE, jnp.zeros_like(write_BNH), write_BNH, one_BN,
        state=DeltaState(recurrent.state_BHEF),
    )  # fmt: skip
    return recurrent._replace(state_BHEF=after.state_BHEF)
