"""What the modules cost that a controller's core calls, counted as in `rtdlm.models.cost`."""

from rtdlm.config import AGIConfig
from rtdlm.models.knowledge_cost import knowledge_products, knowledge_reads, knowledge_vectors
from rtdlm.models.quantum_cost import quantum_products, quantum_reads, quantum_vectors


def called_products(config: AGIConfig) -> int:
    """Parameters that multiply a caller's features."""
    return sum(PRODUCTS[name](config) for name in config.called)


def called_vectors(config: AGIConfig) -> int:
    """Parameters of norms and angles."""
    norm = config.d_model * (2 if config.norm == "layer" and config.biases == "all" else 1)
    return sum(norm + VECTORS[name](config) for name in config.called)


def products_of_calls(config: AGIConfig) -> dict[str, int]:
    """Products of one call of each module for one token."""
    return {name: PRODUCTS[name](config) + READS[name](config) for name in config.called}


PRODUCTS = {"knowledge": knowledge_products, "quantum": quantum_products}
VECTORS = {"knowledge": knowledge_vectors, "quantum": quantum_vectors}
READS = {"knowledge": knowledge_reads, "quantum": lambda config: quantum_reads(config, slots=1)}
