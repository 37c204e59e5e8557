"""What a controller's core costs beside its layers, counted as in `rtdlm.models.cost`."""

from rtdlm.config import AGIConfig
from rtdlm.models.core import PRICED
from rtdlm.modules.controller.controller import HIDDEN

TOLD = 3
"""Numbers beside the summary that the policy hears."""


def core_products(config: AGIConfig) -> int:
    """Parameters that multiply a token's features, but for the core's layers."""
    return core_once(config) + _policy(config) if config.core_layers else 0


def core_once(config: AGIConfig) -> int:
    """Those of `core_products` that do so once, however many steps there are."""
    return 2 * config.d_model**2 if config.core_layers else 0


def core_vectors(config: AGIConfig) -> int:
    """Parameters of the norm, biases, steps and prices."""
    if not config.core_layers:
        return 0
    norm = config.d_model * (2 if config.norm == "layer" and config.biases == "all" else 1)
    gate = config.d_model * (1 + config.controller.steps)
    decided = 2 + len(config.called)
    return norm + gate + HIDDEN * (1 + config.controller.steps) + decided + len(PRICED)


def _policy(config: AGIConfig) -> int:
    return config.d_model * (1 + HIDDEN) + HIDDEN * (TOLD + 1 + len(config.called))
