"""What a layer's quantum circuit costs: parameters and operations, counted as in `.cost`.

A block of k of n qubits is one product of a real matrix of 2^(k + 1) rows with 2^(n - k) columns,
see `rtdlm.modules.quantum.fusion`; making the matrices costs nothing a token, but where every token
turns its qubits anew, and then about as much as they have entries.
"""

from rtdlm.config import AGIConfig
from rtdlm.modules.quantum.ansatz import ANSATZES
from rtdlm.modules.quantum.circuit import Circuit
from rtdlm.modules.quantum.fusion import block_size, fuse


def quantum_products(config: AGIConfig) -> int:
    """Parameters that multiply a token's features."""
    quantum, d = config.quantum, config.d_model
    if quantum.form == "circuit":
        return d * (quantum.features + quantum.qubits)
    return d * quantum.num_heads * 2 * (quantum.features + config.head_dim)


def quantum_vectors(config: AGIConfig) -> int:
    """Angles, the layer's own norm apart."""
    circuit = circuit_of(config)
    return circuit.num_rounds * circuit.num_params


def quantum_reads(config: AGIConfig, *, slots: int) -> int:
    """Products of a token's states with the circuit, and with the states of `slots` others."""
    quantum = config.quantum
    if quantum.form == "circuit":
        return simulated(circuit_of(config))
    overlap = slots * (2 ** (quantum.qubits + 2) + config.head_dim)
    return quantum.num_heads * (2 * simulated(circuit_of(config)) + overlap)


def circuit_of(config: AGIConfig) -> Circuit:
    """What is trained in a layer."""
    quantum = config.quantum
    name = "data_reuploading" if quantum.form == "attention" else quantum.trained
    own = {"num_features": quantum.features} if name == "data_reuploading" else {}
    return ANSATZES[name](quantum.qubits, num_rounds=quantum.rounds, **own)


def simulated(circuit: Circuit) -> int:
    """Products of one run of a circuit."""
    blocks = fuse(circuit.ops, most=block_size(circuit.num_qubits))
    sizes = [len(block.qubits) for block in blocks]
    return circuit.num_rounds * sum(4 ** (k + 1) * 2 ** (circuit.num_qubits - k) for k in sizes)
