"""Whether confidence is what it says: expected calibration error, and a fit that mends it.

    ECE = sum_b n_b / n |accuracy_b - confidence_b|       over bins of equal width

(arXiv 1706.04599.) The fit is Platt's, confidence = sigmoid(a logit + b), by Newton's method on
data that the error is then not measured on.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

BINS = 15
ROUNDS = 50


class Platt(NamedTuple):
    """A correction of logits."""

    slope: float
    shift: float

    def __call__(self, logit: ArrayLike) -> np.ndarray:
        """Confidence of each logit, in [0, 1]."""
        return _sigmoid(self.slope * np.asarray(logit, np.float64) + self.shift)


def calibration_error(confidence: ArrayLike, right: ArrayLike, *, bins: int = BINS) -> float:
    """Expected calibration error in [0, 1].

    Args:
        confidence: of every answer, in [0, 1].
        right: whether it was right.
        bins: of equal width.
    """
    sure, right = np.asarray(confidence, np.float64).ravel(), np.asarray(right).ravel()
    place = np.minimum((sure * bins).astype(int), bins - 1)
    gaps = np.zeros(bins)
    np.add.at(gaps, place, sure - right)
    return float(np.sum(np.abs(gaps)) / sure.size)


def fit_platt(logit: ArrayLike, right: ArrayLike) -> Platt:
    """The slope and shift with the largest likelihood, a little ridge keeping them finite."""
    x = np.stack([np.asarray(logit, np.float64).ravel(), np.ones(np.size(logit))], axis=1)
    y, weight = np.asarray(right, np.float64).ravel(), np.array([1.0, 0.0])
    ridge = 1e-6 * len(y) * np.eye(2)
    for _ in range(ROUNDS):
        share = _sigmoid(x @ weight)
        slope = x.T @ (share - y) + ridge @ weight
        curve = (x * (share * (1 - share))[:, None]).T @ x + ridge
        step = np.linalg.solve(curve, slope)
        weight = weight - step / max(1.0, float(np.abs(step).max()))
        if np.abs(step).max() < 1e-10:
            break
    return Platt(float(weight[0]), float(weight[1]))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-np.clip(x, -60.0, 60.0)))
