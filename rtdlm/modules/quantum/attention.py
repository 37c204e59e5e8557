"""Attention by the overlap of quantum states, a kernel between tokens (arXiv 1803.07128).

    psi_q(t), psi_k(s)     states of a circuit into which W_q x_t and W_k x_s are uploaded
    a[t, s] = |<psi_q(t)|psi_k(s)>|^2 / (the sum of it over all s that t may read)
    y_t = W_o sum_s a[t, s] W_v x_s

Overlaps are at least 0 and at most 1 as they are, so there is no softmax. What is kept of a token
in decoding is its state, 2^(n + 1) numbers a head, and its value. The cost is that of one circuit a
token and head, and 2^(n + 2) products a pair of tokens.

Axes: B batch, T new tokens, S slots, H heads, F angles, P planes (2^(n + 1), real and imaginary), E
head features, D model.
"""

from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from rtdlm.config import QuantumConfig
from rtdlm.modules.primitives import Projection
from rtdlm.modules.quantum.ansatz import data_reuploading
from rtdlm.modules.quantum.first import first_angles
from rtdlm.modules.quantum.statevector import run

SMALLEST = 1e-9
"""Of the sum of overlaps, which divides: all of them may be orthogonal."""


class QuantumCache(NamedTuple):
    """What earlier tokens left behind; slot s holds position s."""

    state_BSHP: jax.Array
    """float32."""
    value_BSHE: jax.Array

    @classmethod
    def empty(
        cls, config: QuantumConfig, *shape: int, features: int, dtype: jnp.dtype
    ) -> "QuantumCache":
        """Zeros of `shape`, (layers,) batch, slots; `features` are those of a head's values."""
        heads = (*shape, config.num_heads)
        return cls(
            jnp.zeros((*heads, 2 ** (config.qubits + 1)), jnp.float32),
            jnp.zeros((*heads, features), dtype),
        )

    def write(
        self, state_BTHP: jax.Array, value_BTHE: jax.Array, positions_BT: jax.Array
    ) -> "QuantumCache":
        """With new tokens at their positions; beyond the last slot drops."""
        place = (jnp.arange(positions_BT.shape[0])[:, None], positions_BT)
        return QuantumCache(
            self.state_BSHP.at[place].set(state_BTHP, mode="drop"),
            self.value_BSHE.at[place].set(value_BTHE.astype(self.value_BSHE.dtype), mode="drop"),
        )


class QuantumAttention(hk.Module):
    """Reads earlier tokens, and itself, by the overlap of their states."""

    def __init__(
        self, config: QuantumConfig, *, features: int, out_scale: float, name: str = "overlap"
    ) -> None:
        """
        Args:
            config: of which kind `attention`.
            features: of a head's values.
            out_scale: scale of what is written before training.
            name: module name, part of the parameters' paths.
        """
        super().__init__(name=name)
        self.config = config
        self.features = features
        self.out_scale = out_scale

    def __call__(
        self,
        x_BTD: jax.Array,
        *,
        allowed_BTS: jax.Array,
        positions_BT: jax.Array,
        cache: QuantumCache | None = None,
    ) -> tuple[jax.Array, QuantumCache | None]:
        """
        Args:
            x_BTD: tokens.
            allowed_BTS: bool; which slots, or tokens of the row, a token may read.
            positions_BT: int32; slots of the tokens. Read only with a cache.
            cache: of earlier tokens; None where the row is whole.
        """
        config, model = self.config, x_BTD.shape[-1]
        circuit = data_reuploading(
            config.qubits, num_rounds=config.rounds, num_features=config.features
        )
        shape = (circuit.num_rounds, circuit.num_params)
        angles_LP = hk.get_parameter("angles", shape, jnp.float32, first_angles(circuit))

        def state(features_F: jax.Array) -> jax.Array:
            psi = run(circuit, angles_LP, features_F)
            return jnp.concatenate([psi.real, psi.imag])

        def states(name: str) -> jax.Array:
            inner = (model, config.num_heads, config.features)
            given = Projection("BTD,DHF->BTHF", shape=inner, name=name)(x_BTD).astype(jnp.float32)
            found = jax.vmap(state)(given.reshape(-1, config.features))
            return found.reshape(*given.shape[:-1], -1)

        inner = (model, config.num_heads, self.features)
        query_BTHP, read_BSHP = states("query"), states("key")
        value_BSHE = Projection("BTD,DHE->BTHE", shape=inner, name="value")(x_BTD)
        if cache is not None:
            cache = cache.write(read_BSHP, value_BSHE, positions_BT)
            read_BSHP, value_BSHE = cache
        share_BHTS = _shares(query_BTHP, read_BSHP, allowed_BTS).astype(value_BSHE.dtype)
        y_BTHE = jnp.einsum("BHTS,BSHE->BTHE", share_BHTS, value_BSHE)
        outer = (config.num_heads, self.features, model)
        output = Projection("BTHE,HED->BTD", shape=outer, scale=self.out_scale, name="output")
        return output(y_BTHE), cache


def _shares(query_BTHP: jax.Array, read_BSHP: jax.Array, allowed_BTS: jax.Array) -> jax.Array:
    """Overlaps of states over their sum, 0 where a token may not be read."""
    real, imaginary = jnp.split(read_BSHP, 2, axis=-1)
    turned_BSHP = jnp.concatenate([-imaginary, real], axis=-1)
    inner = (
        jnp.einsum("BTHP,BSHP->BHTS", query_BTHP, x, precision="highest")
        for x in (read_BSHP, turned_BSHP)
    )
    overlap = jnp.where(allowed_BTS[:, None], sum(part**2 for part in inner), 0.0)
    return overlap / (jnp.sum(overlap, axis=-1, keepdims=True) + SMALLEST)
