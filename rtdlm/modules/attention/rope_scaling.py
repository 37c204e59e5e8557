"""Rotary frequencies for rows longer than those that a model was trained on.

With f_i = base^(-2i/E) the frequency of plane i, E the head's features, s the factor and L the
original length, a plane turns L f_i / 2 pi times over a row that was trained on:

    linear   f_i / s                                                        (arXiv 2306.15595)
    ntk      (base s^(E / (E - 2)))^(-2i/E): plane 0 keeps f_0, the last one gets f / s
    yarn     (1 - r_i) f_i / s + r_i f_i, where r_i falls along the planes from 1 to 0, linearly
             between the one that turns `fast_turns` times and the one that turns `slow_turns`
             times; cosine and sine are multiplied by 0.1 ln s + 1          (arXiv 2309.00071)
    llama3   the same sum with r_i = (turns_i - low) / (high - low), clipped to [0, 1], and no
             factor                                                         (arXiv 2407.21783)

Axes: R = E/2 planes.
"""

from typing import NamedTuple, assert_never

import numpy as np

from rtdlm.config import RopeConfig


class Planes(NamedTuple):
    """How the planes of a head turn."""

    frequency_R: np.ndarray
    """float64 [radians a token]."""
    length: float
    """What rotated queries and keys are multiplied by."""


def scaled_planes(config: RopeConfig, *, head_dim: int, base: float) -> Planes:
    """The planes of a head of `head_dim` features, an even number."""
    plane_R = np.arange(0, head_dim, 2, dtype=np.float64) / head_dim
    frequency_R = base**-plane_R
    factor = 1.0 if config.factor is None else config.factor
    match config.scaling:
        case "none":
            return Planes(frequency_R, 1.0)
        case "linear":
            return Planes(frequency_R / factor, 1.0)
        case "ntk":
            # A head of one plane has no last plane to divide.
            raised = base * factor ** (head_dim / (head_dim - 2)) if head_dim > 2 else base
            return Planes(raised**-plane_R, 1.0)
        case "yarn":
            kept_R = _yarn_kept(config, head_dim=head_dim, base=base)
            length = config.attention_factor or 0.1 * np.log(factor) + 1.0
        case "llama3":
            kept_R, length = _llama3_kept(config, frequency_R), 1.0
        case unknown:
            assert_never(unknown)
    return Planes((1 - kept_R) * frequency_R / factor + kept_R * frequency_R, float(length))


def _llama3_kept(config: RopeConfig, frequency_R: np.ndarray) -> np.ndarray:
    assert config.original_length is not None
    low, high = config.value("low_frequency"), config.value("high_frequency")
    turns_R = config.original_length * frequency_R / (2 * np.pi)
    return np.clip((turns_R - low) / (high - low), 0.0, 1.0)


def _yarn_kept(config: RopeConfig, *, head_dim: int, base: float) -> np.ndarray:
    """`[R]`: how much of each plane's frequency stays, 1 for those that turn often."""
    original = config.original_length
    assert original is not None

    def plane(turns: float) -> float:
        """Where along the planes, a real number, the row holds so many turns."""
        tokens = original / (2 * np.pi * turns)
        return float(head_dim * np.log(tokens) / (2 * np.log(base)))

    first = max(np.floor(plane(config.value("fast_turns"))), 0.0)
    last = min(np.ceil(plane(config.value("slow_turns"))), head_dim - 1.0)
    ramp_R = (np.arange(head_dim // 2) - first) / max(last - first, 1e-3)
    return 1.0 - np.clip(ramp_R, 0.0, 1.0)
