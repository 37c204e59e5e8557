"""Meta-task memory: which task this is, written once a segment (arXiv 2407.04841, 2207.06881).

At a segment's end, m learned probes p each pool the keys and values of its last document,

    a_ns = softmax_s(c p_n k_s)        k'_n = unit(sum_s a_ns k_s)        v'_n = sum_s a_ns v_s

and the m pairs are written into a matrix a head by the delta rule, after one slow decay,

    S <- a S,   then for each n:   S <- S + b_n k'_n (v'_n - S^T k'_n)^T

Every token of all later segments reads it as y = S^T q. And with a bank of tasks, what learned
questions u read of S chooses among K entries of scales and shifts of a feature (arXiv 1709.07871):

    z = softmax(W norm(S^T u))        x <- x * (1 + z G) + z H

Axes: B batch, T time, S tokens of a segment, N probes, H heads, E features, K entries, D model.
"""

from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from rtdlm.modules.memory.matrix import Matrix
from rtdlm.modules.memory.scores import pool
from rtdlm.modules.memory.tokens import Tokens, last_label
from rtdlm.modules.primitives import Projection, RMSNorm, gated_delta, where_rows

FIRST_DECAY = 0.01
"""Share that is forgotten a segment before training."""


def read_meta(query_BTHE: jax.Array, tokens: Tokens, memory: Matrix) -> jax.Array:
    """What each query reads `[B, T, H, E]`; zero for a token of another document."""
    read_BTHE = jnp.einsum("BTHE,BHEF->BTHF", query_BTHE.astype(jnp.float32), memory.state_BHEF)
    return jnp.where(_own(tokens, memory)[..., None, None], read_BTHE, 0.0).astype(query_BTHE.dtype)


class Modulation(NamedTuple):
    """x * (1 + scale) + shift."""

    scale_BTD: jax.Array
    shift_BTD: jax.Array

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """`x_BTD`, modulated."""
        return x_BTD * (1 + self.scale_BTD) + self.shift_BTD


def modulation(
    tokens: Tokens, memory: Matrix, *, slots: int, model: int, dtype: jnp.dtype
) -> Modulation:
    """What the bank's entries come to for every token; before anything was read, their mean."""
    heads, features = memory.state_BHEF.shape[1:3]
    spread = hk.initializers.RandomNormal(features**-0.5)
    question_HE = hk.get_parameter("question", (heads, features), jnp.float32, spread)
    found_BHF = jnp.einsum("HE,BHEF->BHF", question_HE, memory.state_BHEF)
    flat_BE = RMSNorm(epsilon=1e-4, name="task_norm")(found_BHF.reshape(len(found_BHF), -1))
    shape = (flat_BE.shape[-1], slots)
    chosen_BK = jax.nn.softmax(Projection("BE,EK->BK", shape=shape, name="address")(flat_BE))
    start = hk.initializers.RandomNormal(0.02)
    bank_KXD = hk.get_parameter("bank", (slots, 2, model), jnp.float32, start)
    own_BXD = jnp.einsum("BK,KXD->BXD", chosen_BK, bank_KXD)
    mean_XD = jnp.mean(bank_KXD, axis=0)
    own_BT11 = _own(tokens, memory)[..., None, None]
    both_BTXD = jnp.where(own_BT11, own_BXD[:, None], mean_XD[None, None]).astype(dtype)
    return Modulation(both_BTXD[:, :, 0], both_BTXD[:, :, 1])


def write_meta(
    memory: Matrix,
    key_BSHE: jax.Array,
    value_BSHE: jax.Array,
    label_BS: jax.Array,
    *,
    probes: int,
) -> Matrix:
    """The memory after a whole segment."""
    heads = key_BSHE.shape[2]
    label_B = last_label(label_BS, label_BS > 0, memory.label_B)
    own_BS = (label_BS == label_B[:, None]) & (label_BS > 0)
    key_BNHE, value_BNHE = pool("probe", key_BSHE, value_BSHE, own_BS, probes=probes)
    start = hk.initializers.Constant(jnp.log(jnp.expm1(FIRST_DECAY)))
    decay_H = -jax.nn.softplus(hk.get_parameter("forget", (heads,), jnp.float32, start))
    write_NH = jax.nn.sigmoid(hk.get_parameter("put", (probes, heads), jnp.float32, jnp.zeros))
    batch = len(key_BSHE)
    decay_BNH = jnp.zeros((batch, probes, heads)).at[:, 0].set(decay_H[None])
    write_BNH = jnp.broadcast_to(write_NH[None], (batch, probes, heads))
    one_BN = jnp.ones((batch, probes), jnp.int32)
    _, after = gated_delta(
        key_BNHE, key_BNHE, value_BNHE, decay_BNH, write_BNH, one_BN, state=memory.given(label_B)
    )
    written_B = jnp.any(own_BS, axis=1)
    return Matrix(where_rows(written_B, after.state_BHEF, memory.state_BHEF), label_B)


def _own(tokens: Tokens, memory: Matrix) -> jax.Array:
    """bool `[B, T]`: tokens of the document that the memory is of."""
    return (tokens.label_BT == memory.label_B[:, None]) & (tokens.label_BT > 0)
