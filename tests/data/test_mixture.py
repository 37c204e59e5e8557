import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtdlm.config.errors import UserError
from rtdlm.data.mixture import PERIOD, Mixture


@pytest.mark.parametrize(
    ("weights", "counts"),
    [
        ([5.0], [1]),
        ([1.0, 1.0], [2048, 2048]),
        ([3.0, 1.0], [3072, 1024]),
        ([0.7, 0.2, 0.1], [2867, 819, 410]),  # 2867.2, 819.2, 409.6
        ([1.0, 1e-9], [4095, 1]),
    ],
)
def test_each_period_has_exactly_its_share(weights, counts) -> None:
    mixture = Mixture(weights)
    assert mixture.counts.tolist() == counts
    for start in (0, 7 * mixture.period):
        source, _ = mixture.assign(start + np.arange(mixture.period))
        assert np.bincount(source).tolist() == counts


@given(st.lists(st.floats(0.001, 1000), min_size=1, max_size=6))
def test_rows_of_a_source_are_numbered_without_a_gap(weights: list[float]) -> None:
    mixture = Mixture(weights)
    source, number = mixture.assign(np.arange(2 * PERIOD + 100))
    for index in range(len(weights)):
        np.testing.assert_array_equal(number[source == index], np.arange((source == index).sum()))


def test_sources_are_spread_evenly() -> None:
    source, _ = Mixture([3.0, 1.0]).assign(np.arange(PERIOD))
    assert source[:8].tolist() == [0, 0, 1, 0, 0, 0, 1, 0]
    for start in range(0, PERIOD, 64):
        assert abs(source[start : start + 64].sum() - 16) <= 1


def test_a_row_does_not_depend_on_those_asked_with_it() -> None:
    mixture = Mixture([0.7, 0.3])
    rows = np.array([10**12, 3, 5000, 3])
    source, number = mixture.assign(rows)
    for index, row in enumerate(rows):
        alone = mixture.assign(np.array([row]))
        assert (source[index], number[index]) == (alone[0][0], alone[1][0])


def test_too_many_sources_are_refused() -> None:
    with pytest.raises(UserError, match="5000 weighted sources are more than 4096"):
        Mixture([1.0] * 5000)
