"""RT-DLM: a language-model research and training framework in JAX and Haiku.

    from rtdlm import AGIConfig, TMSModel

    config = AGIConfig.from_preset("tiny")
    model = TMSModel(config)

The names below are imported on first use, so that a command that needs no JAX starts at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rtdlm.config import AGIConfig as AGIConfig
    from rtdlm.models import TMSModel as TMSModel
    from rtdlm.parallel import ScalableMesh as ScalableMesh

__version__ = "0.1.0"

_HOMES = {
    "AGIConfig": "rtdlm.config",
    "ScalableMesh": "rtdlm.parallel",
    "TMSModel": "rtdlm.models",
}

__all__ = ["AGIConfig", "ScalableMesh", "TMSModel", "__version__"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'rtdlm' has no attribute {name!r}")
