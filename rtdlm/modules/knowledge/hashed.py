"""Memory of the last tokens, looked up by a hash and gated by the stream (arXiv 2601.07372).

    e = rows of all tables           chosen by the last n tokens, n = 2, 3, ..., several tables each
    alpha = sigmoid(norm(x) . norm(e W_key) / sqrt(D))
    y = alpha e W_value

Which rows is the same in every layer and made once for all, see `rtdlm.modules.embedding`; the rows
themselves are a layer's own. They start at zero, so that a sequence which was never seen adds
nothing. (The paper follows with a short convolution; here the stream may have one.)

Axes: B batch, T time, N tables, R rows of all tables, E features of a row, D model.
"""

import haiku as hk
import jax
import jax.numpy as jnp

from rtdlm.config import KnowledgeConfig
from rtdlm.modules.primitives import Projection, RMSNorm


class HashedMemory(hk.Module):
    """Reads one row of each table, token by token, as far as the stream agrees with them."""

    def __init__(self, config: KnowledgeConfig, *, name: str = "knowledge") -> None:
        super().__init__(name=name)
        self.config = config

    def __call__(self, x_BTD: jax.Array, rows_BTN: jax.Array) -> jax.Array:
        """`[B, T, D]` and int32 rows of all tables, one after the other -> `[B, T, D]`."""
        config, width = self.config, x_BTD.shape[-1]
        tables, wide = config.num_tables, config.width(width)
        shape = (tables * config.table_rows, wide)
        table_RE = hk.get_parameter("table", shape, jnp.float32, hk.initializers.Constant(0.0))
        # Hashes are within the tables.
        found_BTNE = table_RE.at[rows_BTN].get(mode="promise_in_bounds").astype(x_BTD.dtype)
        key, value = (
            Projection("BTNE,NED->BTD", shape=(tables, wide, width), name=name)(found_BTNE)
            for name in ("key", "value")
        )
        query = RMSNorm(name="query_norm")(x_BTD).astype(jnp.float32)
        key = RMSNorm(name="key_norm")(key).astype(jnp.float32)
        score_BT = jnp.sum(query * key, axis=-1) * width**-0.5
        return value * jax.nn.sigmoid(score_BT).astype(x_BTD.dtype)[..., None]
