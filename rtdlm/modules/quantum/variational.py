"""A trained circuit as a layer: numbers in as angles, expectation values of Z out.

    y_q = <0| U(x)^+ V^+ Z_q V U(x) |0>

U turns qubit q by RY(x_q) and V is one of `ANSATZES`; `data_reuploading` takes x in every round and
needs no U. Where parameters begin says `first_angles`.

Axes: F features, L rounds, P parameters a round, Q outputs, N = 2^n amplitudes.
"""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from rtdlm.config import UserError
from rtdlm.modules.quantum.ansatz import ANSATZES
from rtdlm.modules.quantum.circuit import Circuit
from rtdlm.modules.quantum.first import first_angles
from rtdlm.modules.quantum.statevector import run


class VariationalQuantumCircuit(hk.Module):
    """`[..., F]` angles to `[..., Q]` in [-1, 1], simulated in float32.

    Raises:
        UserError: no such ansatz, or more outputs than qubits.
    """

    def __init__(
        self,
        num_qubits: int,
        *,
        num_outputs: int,
        num_rounds: int = 2,
        ansatz: str = "hardware_efficient",
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        if ansatz not in ANSATZES:
            raise UserError(f"there is no ansatz {ansatz!r}: there are {', '.join(ANSATZES)}")
        if not 1 <= num_outputs <= num_qubits:
            raise UserError(f"{num_outputs} outputs of {num_qubits} qubits: expected 1 to as many")
        self._num_qubits, self._num_outputs = num_qubits, num_outputs
        self._num_rounds, self._ansatz = num_rounds, ansatz

    def __call__(self, angles: jax.Array) -> jax.Array:
        """Expectation values of the first qubits' Z, in the angles' format.

        Raises:
            UserError: there are not as many angles as qubits, nor are they uploaded every round.
        """
        trained = self._circuit(angles.shape[-1])
        shape = (trained.num_rounds, trained.num_params)
        params_LP = hk.get_parameter("angles", shape, jnp.float32, first_angles(trained))

        def of_one(features_F: jax.Array) -> jax.Array:
            if self._ansatz == "data_reuploading":
                return run(trained, params_LP, features_F)
            return run(trained, params_LP, state=turned(features_F))

        flat = angles.reshape(-1, angles.shape[-1]).astype(jnp.float32)
        found = self._expectations(jax.vmap(of_one)(flat)).astype(angles.dtype)
        return found.reshape(*angles.shape[:-1], self._num_outputs)

    def _expectations(self, state_BN: jax.Array) -> jax.Array:
        """Of Z on each qubit: the chances of all outcomes, with their signs."""
        bits_NQ = np.indices((2,) * self._num_qubits).reshape(self._num_qubits, -1).T
        signs_NQ = jnp.asarray(1.0 - 2.0 * bits_NQ[:, : self._num_outputs], jnp.float32)
        chance_BN = state_BN.real**2 + state_BN.imag**2
        return jnp.matmul(chance_BN, signs_NQ, precision="highest")

    def _circuit(self, num_features: int) -> Circuit:
        """What is trained."""
        build, rounds = ANSATZES[self._ansatz], self._num_rounds
        if self._ansatz == "data_reuploading":
            return build(self._num_qubits, num_rounds=rounds, num_features=num_features)
        if num_features != self._num_qubits:
            raise UserError(
                f"{num_features} angles for {self._num_qubits} qubits: {self._ansatz} takes one "
                "each; project to as many, or use data_reuploading"
            )
        return build(self._num_qubits, num_rounds=rounds)


def turned(angles_Q: jax.Array) -> jax.Array:
    """`[2^Q]`: |0...0> with each qubit turned by RY, products of (cos, sin) of half its angle."""
    half_Q2 = jnp.stack([jnp.cos(angles_Q / 2), jnp.sin(angles_Q / 2)], axis=-1)
    product_N = half_Q2[0]
    for one_2 in half_Q2[1:]:
        product_N = (product_N[:, None] * one_2[None]).reshape(-1)
    return jax.lax.complex(product_N, jnp.zeros_like(product_N))
