"""Calibration against a loop, sets whose error is known, and a fit of known numbers."""

import numpy as np
import pytest

from rtdlm.evaluation.calibration import Platt, calibration_error, fit_platt


def by_hand(confidence: np.ndarray, right: np.ndarray, bins: int) -> float:
    """Bin by bin."""
    total = 0.0
    for b in range(bins):
        low, high = b / bins, (b + 1) / bins
        own = (confidence >= low) & ((confidence < high) | (b == bins - 1))
        if own.any():
            total += own.sum() * abs(right[own].mean() - confidence[own].mean())
    return total / len(confidence)


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_the_error_is_that_of_a_loop(bins: int) -> None:
    rng = np.random.default_rng(0)
    confidence = rng.random(501)
    confidence[:2] = 0.0, 1.0
    right = rng.random(501) < confidence**2
    found = calibration_error(confidence, right, bins=bins)
    assert found == pytest.approx(by_hand(confidence, right, bins), abs=1e-12)
    assert found > 0.05
    assert calibration_error(confidence.reshape(3, 167), right.reshape(3, 167), bins=bins) == found


def test_sets_whose_error_is_known() -> None:
    sure = np.repeat([0.25, 0.75], 400)
    right = np.tile([True, False, False, False], 100), np.tile([True, True, True, False], 100)
    assert calibration_error(sure, np.concatenate(right)) == 0.0
    assert calibration_error(np.full(10, 0.9), np.zeros(10, bool)) == pytest.approx(0.9)
    assert calibration_error([1.0, 1.0], [1, 0]) == 0.5


def test_confidence_that_is_drawn_from_has_little_error() -> None:
    rng = np.random.default_rng(1)
    sure = rng.random(200_000)
    assert calibration_error(sure, rng.random(sure.size) < sure) < 0.005


def test_the_fit_finds_slope_and_shift_and_mends_the_error() -> None:
    rng = np.random.default_rng(2)
    logit = rng.normal(0, 3, (2, 40_000))
    chance = 1 / (1 + np.exp(-(0.5 * logit - 0.7)))
    right = rng.random(logit.shape) < chance
    fit = fit_platt(logit[0], right[0])
    assert fit.slope == pytest.approx(0.5, abs=0.02)
    assert fit.shift == pytest.approx(-0.7, abs=0.05)
    np.testing.assert_allclose(fit(logit[1]), 1 / (1 + np.exp(-fit.slope * logit[1] - fit.shift)))
    before = calibration_error(Platt(1.0, 0.0)(logit[1]), right[1])
    assert before > 0.1
    assert calibration_error(fit(logit[1]), right[1]) < 0.02


@pytest.mark.parametrize("right", [[False, False, True, True], [True, True, True, True]])
def test_the_fit_stays_finite_where_answers_part_or_are_all_right(right: list[bool]) -> None:
    fit = fit_platt([-2.0, -1.0, 1.0, 2.0], right)
    assert np.isfinite(fit).all()
    confidence = fit([-2.0, 2.0])
    assert ((confidence > 0.5) == [right[0], right[-1]]).all()
