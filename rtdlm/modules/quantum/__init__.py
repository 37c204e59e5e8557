"""Quantum circuits, simulated: a circuit is a static description, and numbers come in as it runs.

    circuit = Circuit(2, (op("RY", 0, angles=[Angle(param=0)]), op("CNOT", 0, 1)))
    state = run(circuit, params)
    expectations(state, ["ZZ", "XI"])

`run` holds all 2^n amplitudes and has a gradient that keeps none of those in between; `run_mps` and
`run_ttn` are for 100 qubits and more whose entanglement is small, and say what they dropped. All is
pure and runs in `jit` and `vmap`. `QuantumLayer` and `QuantumAttention` put circuits into a model.
"""

from rtdlm.modules.quantum.ansatz import (
    ANSATZES,
    brick_wall,
    data_reuploading,
    hardware_efficient,
    strongly_entangling,
)
from rtdlm.modules.quantum.attention import QuantumAttention, QuantumCache
from rtdlm.modules.quantum.circuit import Angle, Circuit, Op, matrices, op
from rtdlm.modules.quantum.gates import GATES
from rtdlm.modules.quantum.ising import ising_ansatz, ising_ground_energy, ising_ring
from rtdlm.modules.quantum.layer import QuantumLayer
from rtdlm.modules.quantum.measure import Measured, measure, probabilities, reset, sample
from rtdlm.modules.quantum.mps import (
    MPS,
    mps_amplitude,
    mps_canonical,
    mps_from_statevector,
    mps_to_statevector,
)
from rtdlm.modules.quantum.mps_circuit import run_mps
from rtdlm.modules.quantum.mps_ground import Ground, ground_state, ising_chain
from rtdlm.modules.quantum.mps_measure import (
    mps_energy,
    mps_expectations,
    mps_neighbours,
    mps_sample,
)
from rtdlm.modules.quantum.noise import (
    amplitude_damping,
    depolarising,
    disturb,
    phase_damping,
    run_noisy,
)
from rtdlm.modules.quantum.overhead import QuantumOverhead, calibrate, estimate_quantum_overhead
from rtdlm.modules.quantum.pauli import PauliSum, energy, expectations
from rtdlm.modules.quantum.statevector import run, zero_state
from rtdlm.modules.quantum.tensor_network_split import Evolved, fidelity_bound, fidelity_estimate
from rtdlm.modules.quantum.ttn import TTN, ttn_amplitude, ttn_to_statevector
from rtdlm.modules.quantum.ttn_circuit import run_ttn
from rtdlm.modules.quantum.ttn_measure import ttn_energy, ttn_expectations, ttn_sample
from rtdlm.modules.quantum.variational import VariationalQuantumCircuit

__all__ = [
    "ANSATZES",
    "GATES",
    "MPS",
    "TTN",
    "Angle",
    "Circuit",
    "Evolved",
    "Ground",
    "Measured",
    "Op",
    "PauliSum",
    "QuantumAttention",
    "QuantumCache",
    "QuantumLayer",
    "QuantumOverhead",
    "VariationalQuantumCircuit",
    "amplitude_damping",
    "brick_wall",
    "calibrate",
    "data_reuploading",
    "depolarising",
    "disturb",
    "energy",
    "estimate_quantum_overhead",
    "expectations",
    "fidelity_bound",
    "fidelity_estimate",
    "ground_state",
    "hardware_efficient",
    "ising_ansatz",
    "ising_chain",
    "ising_ground_energy",
    "ising_ring",
    "matrices",
    "measure",
    "mps_amplitude",
    "mps_canonical",
    "mps_energy",
    "mps_expectations",
    "mps_from_statevector",
    "mps_neighbours",
    "mps_sample",
    "mps_to_statevector",
    "op",
    "phase_damping",
    "probabilities",
    "reset",
    "run",
    "run_mps",
    "run_noisy",
    "run_ttn",
    "sample",
    "strongly_entangling",
    "ttn_amplitude",
    "ttn_energy",
    "ttn_expectations",
    "ttn_sample",
    "ttn_to_statevector",
    "zero_state",
]
