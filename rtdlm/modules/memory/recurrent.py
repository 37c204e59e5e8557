"""Long-term memory in a matrix a head: the gated delta rule over all that was read.

    S_t = (I - k_t (e_t * k_t)^T) Diag(a_t) S_{t-1} + k_t (w_t * v_t)^T        y_t = S_t^T q_t

with keys of length 1. What decays (a), is erased (e) and is written (w) is decided by x, the
layer's input:

    log a = -exp(r) softplus(x W_a + c)        e = sigmoid(x W_e)        w = sigmoid(x W_w)

`gated_delta`: a and e = w are numbers a head (arXiv 2412.06464). `channel_decay`: a is one a key
feature (arXiv 2510.26692). `erase_write`: e is one a key feature and w one a value feature, too
(arXiv 2605.22791). A state is of one document, and starts anew with another.

Axes: B batch, T time, D model, H heads, E key features, F value features.
"""

from collections.abc import Sequence
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from rtdlm.modules.memory.matrix import Matrix
from rtdlm.modules.memory.tokens import Tokens, last_label
from rtdlm.modules.primitives import Projection, gated_delta, gated_delta_step, where_rows
from rtdlm.modules.primitives.delta_rule import CHUNK

CHANNEL_CHUNK = 32
"""Tokens computed at once with a decay a feature, whose products are several; fewer are faster."""
SHORTEST, LONGEST = 1e-4, 1e-2
"""Range of the rates of decay a token before training: what is remembered halves after 70 to 7,000
tokens."""


def read_recurrent(
    x_BTD: jax.Array,
    query_BTHE: jax.Array,
    key_BTHE: jax.Array,
    value_BTHE: jax.Array,
    tokens: Tokens,
    memory: Matrix,
    *,
    form: str,
) -> tuple[jax.Array, Matrix]:
    """What each query reads `[B, T, H, E]`, its own token's writing included, and what is left."""
    decay, write, erase = _gates(x_BTD, *query_BTHE.shape[2:], form=form)
    label_BT, counts_BT = tokens.filled_BT, tokens.counts_BT
    given = memory.given(label_BT[:, 0])
    if label_BT.shape[1] == 1:
        query, key, value = query_BTHE[:, 0], key_BTHE[:, 0], value_BTHE[:, 0]
        erase = None if erase is None else erase[:, 0]
        read_BHE, after = gated_delta_step(
            query, key, value, decay[:, 0], write[:, 0], given, erase=erase
        )
        read_BTHE = read_BHE[:, None]
    else:
        read_BTHE, after = gated_delta(
            query_BTHE, key_BTHE, value_BTHE, decay, write, label_BT,
            erase=erase, state=given, counts_BT=counts_BT,
            chunk=CHUNK if form == "gated_delta" else CHANNEL_CHUNK,
        )  # fmt: skip
    is_read_B = jnp.any(counts_BT, axis=1)
    state_BHEF = where_rows(is_read_B, after.state_BHEF, memory.state_BHEF)
    left = Matrix(state_BHEF, last_label(tokens.label_BT, counts_BT, memory.label_B))
    return read_BTHE.astype(query_BTHE.dtype), left


def _gates(
    x_BTD: jax.Array, heads: int, features: int, *, form: str
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Log decay, write and erase, None where that is write; with axes B, T, H and perhaps E."""
    # In float32: the decay of thousands of tokens is a product of numbers near one.
    x_BTD = x_BTD.astype(jnp.float32)
    width = x_BTD.shape[-1]

    def of_heads(name: str) -> jax.Array:
        return Projection("BTD,DH->BTH", shape=(width, heads), name=name)(x_BTD)

    def of_features(name: str) -> jax.Array:
        shape = (width, heads, features)
        return Projection("BTD,DHE->BTHE", shape=shape, name=f"{name}_channels")(x_BTD)

    rate_H = jnp.exp(hk.get_parameter("decay_rate", (heads,), jnp.float32, _log_rates))
    if form == "gated_delta":
        shift = hk.get_parameter("decay_shift", (heads,), jnp.float32, jnp.zeros)
        decay = -rate_H[None, None] * jax.nn.softplus(of_heads("decay") + shift[None, None])
    else:
        shift = hk.get_parameter("decay_shifts", (heads, features), jnp.float32, jnp.zeros)
        decay = jax.nn.softplus(of_features("decay") + shift[None, None])
        decay *= -rate_H[None, None, :, None]
    if form != "erase_write":
        return decay, jax.nn.sigmoid(of_heads("write")), None
    return decay, jax.nn.sigmoid(of_features("write")), jax.nn.sigmoid(of_features("erase"))


def _log_rates(shape: Sequence[int], dtype: Any) -> jax.Array:
    """Rates spread evenly by their logarithm, for a softplus of ln 2."""
    spread = jnp.linspace(np.log(SHORTEST), np.log(LONGEST), shape[0], dtype=dtype)
    return spread - np.log(np.log(2.0))
