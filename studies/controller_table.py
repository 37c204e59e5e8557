"""What prices give: right answers, cost and confidence, from every exit of two batches.

A price is chosen on the calibration's rows and told of on the test's.

Axes: N rows, S exits, F features of the summary.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import spearmanr

from rtdlm.evaluation.calibration import calibration_error, fit_platt
from rtdlm.modules.controller import Priced
from studies.controlled_training import HIGH, LOW
from studies.controller_costs import Costs, at_one_depth

CLOSE = 0.005
"""A loose price loses at most this share of answers to taking all steps."""
PRICES = tuple(float(price) for price in np.geomspace(LOW, HIGH, 31))


class Judged(NamedTuple):
    """What one price gives on the test; what is right is a share of the rows."""

    right: float
    cost: float
    """Mean [share of all steps' operations]."""
    binding: bool
    fixed: float
    """Right at one depth for all, of equal mean cost."""
    random: float
    """Right with the same exits dealt out anew."""
    rank: float
    """Rank correlation of exit and difficulty."""
    raw: float
    """Error of the confidence as it is."""
    calibrated: float
    """Error after a fit on the calibration's rows."""


class Rows(NamedTuple):
    """Every exit of some examples."""

    summary_SNF: jax.Array
    right_NS: np.ndarray
    difficulty_N: np.ndarray

    def right_at(self, exit_N: ArrayLike) -> np.ndarray:
        """bool `[N]`: whether rows are right at these exits."""
        return np.take_along_axis(self.right_NS, np.asarray(exit_N)[:, None], axis=1)[:, 0]


class Table:
    """What prices give, from the exits of calibration and test."""

    def __init__(self, at: Any, costs: Costs, calibration: Rows, test: Rows) -> None:
        self._at, self._costs, self._calibration, self._test = at, costs, calibration, test

    def cost(self, price: float) -> float:
        """Mean cost of the calibration's rows [share of all steps' operations]."""
        exit_N, _ = self._at(self._calibration.summary_SNF, price=jnp.float32(price))
        return float(self._costs.stopping(exit_N).mean())

    def loose(self) -> Priced:
        """The price with the least cost of those that lose next to nothing in calibration."""
        rows = self._calibration
        enough = rows.right_NS[:, -1].mean() - CLOSE
        found = [Priced(LOW, self.cost(LOW), binding=False)]
        for price in PRICES:
            exit_N, _ = self._at(rows.summary_SNF, price=jnp.float32(price))
            if rows.right_at(exit_N).mean() >= enough:
                found.append(Priced(price, self._costs.stopping(exit_N).mean(), binding=False))
        return min(found, key=lambda priced: priced.cost)

    def judged(self, priced: Priced) -> Judged:
        """A price on the test."""
        rows, price = self._test, jnp.float32(priced.price)
        exit_N, sure_N = map(np.asarray, self._at(rows.summary_SNF, price=price))
        right_N = rows.right_at(exit_N)
        cost = float(self._costs.stopping(exit_N).mean())
        dealt_N = np.random.default_rng(0).permutation(exit_N)
        before_N, sure_before_N = self._at(self._calibration.summary_SNF, price=price)
        fit = fit_platt(sure_before_N, self._calibration.right_at(before_N))
        return Judged(
            right=float(right_N.mean()),
            cost=cost,
            binding=priced.binding,
            fixed=at_one_depth(rows.right_NS.mean(axis=0), self._costs.depth_at(cost)),
            random=float(rows.right_at(dealt_N).mean()),
            rank=rank_correlation(exit_N, rows.difficulty_N),
            raw=calibration_error(1 / (1 + np.exp(-sure_N)), right_N),
            calibrated=calibration_error(fit(sure_N), right_N),
        )


def rank_correlation(one_N: np.ndarray, other_N: np.ndarray) -> float:
    """Spearman's, equal values sharing their mean rank; 0 where one of them does not vary."""
    if np.ptp(one_N) == 0 or np.ptp(other_N) == 0:
        return 0.0
    return float(spearmanr(one_N, other_N).statistic)
