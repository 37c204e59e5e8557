"""Quantum circuits as layers of a model: features -> angles -> circuit -> expectations -> features.

    y = W_out <Z_1 .. Z_n> of the circuit turned by W_in x

Axes: D model, F angles, Q qubits.
"""

import haiku as hk
import jax

from rtdlm.config import QuantumConfig
from rtdlm.modules.primitives import Projection
from rtdlm.modules.quantum.variational import VariationalQuantumCircuit


class QuantumLayer(hk.Module):
    """A `VariationalQuantumCircuit` between two products, on each token alone."""

    def __init__(self, config: QuantumConfig, *, out_scale: float, name: str = "quantum") -> None:
        """
        Args:
            config: of which kind `circuit`.
            out_scale: scale of what is written before training.
            name: module name, part of the parameters' paths.
        """
        super().__init__(name=name)
        self.config = config
        self.out_scale = out_scale

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """`[B, T, D]` -> `[B, T, D]`; the circuit itself is simulated in float32."""
        config, model = self.config, x_BTD.shape[-1]
        circuit = VariationalQuantumCircuit(
            config.qubits,
            num_outputs=config.qubits,
            num_rounds=config.rounds,
            ansatz=config.trained,
            name="circuit",
        )
        inner, outer = (model, config.features), (config.qubits, model)
        angles_BTF = Projection("BTD,DF->BTF", shape=inner, name="input")(x_BTD)
        output = Projection("BTQ,QD->BTD", shape=outer, scale=self.out_scale, name="output")
        return output(circuit(angles_BTF))
