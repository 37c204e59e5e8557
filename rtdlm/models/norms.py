"""The norms that a config asks for."""

from rtdlm.config import AGIConfig
from rtdlm.modules.primitives import LayerNorm, RMSNorm

RMS_EPSILON, LAYER_EPSILON = 1e-6, 1e-5


def make_norm(config: AGIConfig, name: str) -> RMSNorm | LayerNorm:
    """The norm of a whole token, `config.norm`."""
    if config.norm == "layer":
        epsilon = _epsilon(config, LAYER_EPSILON)
        return LayerNorm(epsilon=epsilon, bias=config.biases == "all", name=name)
    return make_head_norm(config, name)


def make_head_norm(config: AGIConfig, name: str) -> RMSNorm:
    """The norm of one head of queries or keys, RMSNorm whatever `config.norm` is."""
    centred = config.norm == "rms_centred"
    return RMSNorm(epsilon=_epsilon(config, RMS_EPSILON), centred=centred, name=name)


def _epsilon(config: AGIConfig, default: float) -> float:
    return default if config.norm_epsilon is None else config.norm_epsilon
