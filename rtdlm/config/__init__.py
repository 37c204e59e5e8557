"""What a run is: frozen dataclasses, presets, YAML and overrides. Imports no JAX."""

from rtdlm.config.agi import AGIConfig
from rtdlm.config.attention import AttentionConfig, RopeConfig
from rtdlm.config.build import build_config, to_yaml
from rtdlm.config.controller import (
    BALANCED_CONFIG,
    FAST_CONFIG,
    STRATEGIES,
    THOROUGH_CONFIG,
    ControllerConfig,
    StrategyConfig,
)
from rtdlm.config.errors import StorageError, UserError
from rtdlm.config.graph import GraphConfig
from rtdlm.config.hosts import HostsConfig
from rtdlm.config.knowledge import KnowledgeConfig
from rtdlm.config.mesh import MeshConfig
from rtdlm.config.ngram import NgramConfig
from rtdlm.config.presets import PRESETS
from rtdlm.config.quantum import QuantumConfig
from rtdlm.config.sections import (
    CheckpointConfig,
    DataConfig,
    EvaluationConfig,
    LossConfig,
    MonitoringConfig,
    OptimizerConfig,
    PrecisionConfig,
)
from rtdlm.config.sparse import DepthsConfig, ExpertsConfig

__all__ = [
    "BALANCED_CONFIG",
    "FAST_CONFIG",
    "PRESETS",
    "STRATEGIES",
    "THOROUGH_CONFIG",
    "AGIConfig",
    "AttentionConfig",
    "CheckpointConfig",
    "ControllerConfig",
    "DataConfig",
    "DepthsConfig",
    "EvaluationConfig",
    "ExpertsConfig",
    "GraphConfig",
    "HostsConfig",
    "KnowledgeConfig",
    "LossConfig",
    "MeshConfig",
    "MonitoringConfig",
    "NgramConfig",
    "OptimizerConfig",
    "PrecisionConfig",
    "QuantumConfig",
    "RopeConfig",
    "StorageError",
    "StrategyConfig",
    "UserError",
    "build_config",
    "to_yaml",
]
