"""What a log says of the experts: how evenly they are used, layer by layer.

    entropy     -sum_e u_e ln u_e / ln E, u being the shares of a layer's choices; 1 is even
    imbalance   the largest load over the mean load; 1 is even
    collapsed   experts without any token
    dropped     share of choices that found their expert full

Axes: L layers with experts, E experts.
"""

from collections.abc import Sequence

import numpy as np

from rtdlm.training.loss import ExpertSums


def expert_values(experts: ExpertSums, layers: Sequence[int]) -> dict[str, float]:
    """Metrics of one step: means over layers (`collapsed` adds up), then every layer's own.

    Args:
        experts: means over the batch.
        layers: number of each layer that has experts, from 1.
    """
    usage_LE = np.asarray(experts.usage_LE, np.float64)
    by_layer = {
        "dropped": np.asarray(experts.dropped_L, np.float64),
        "entropy": entropy(usage_LE),
        "imbalance": imbalance(usage_LE),
        "collapsed": np.sum(usage_LE == 0.0, axis=1),
    }
    values = {"balance": float(experts.balance), "router_z": float(experts.router_z)}
    for name, value_L in by_layer.items():
        whole = np.sum(value_L) if name == "collapsed" else np.mean(value_L)
        values[name] = float(whole)
    for name, value_L in by_layer.items():
        for layer, value in zip(layers, value_L, strict=True):
            values[f"{name}_layer_{layer}"] = float(value)
    return {f"experts_{name}": value for name, value in values.items()}


def entropy(usage_LE: np.ndarray) -> np.ndarray:
    """Of every layer's usage, over that of an even one."""
    logs_LE = np.log(np.where(usage_LE > 0.0, usage_LE, 1.0))
    return -np.sum(usage_LE * logs_LE, axis=1) / np.log(usage_LE.shape[1])


def imbalance(usage_LE: np.ndarray) -> np.ndarray:
    """Largest over mean load of every layer; 0 where there was no token."""
    return np.max(usage_LE, axis=1) * usage_LE.shape[1]
