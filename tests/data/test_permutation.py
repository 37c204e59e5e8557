import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtdlm.data.permutation import hash_indices, mix, permute


@given(size=st.integers(1, 3000), key=st.integers(0, 2**64 - 1))
def test_every_number_comes_up_once(size: int, key: int) -> None:
    values = permute(np.arange(size), size=size, key=key)
    np.testing.assert_array_equal(np.sort(values), np.arange(size))


def test_a_number_does_not_depend_on_those_asked_with_it() -> None:
    size = 10**12 + 39
    indices = np.array([0, 1, 7, size - 1, 123_456_789_012])
    together = permute(indices, size=size, key=5)
    assert len(set(together.tolist())) == 5
    assert together.min() >= 0
    assert together.max() < size
    for index, value in zip(indices, together, strict=True):
        assert permute(np.array([index]), size=size, key=5).tolist() == [value]


def test_runs_of_the_past_can_be_rebuilt() -> None:
    # Literal values: a change here would shuffle every saved run anew.
    assert mix(0) == 17384728328785754100
    assert mix(1, 2, 3) == 16693939600727186224
    assert permute(np.arange(10), size=10, key=0).tolist() == [0, 6, 7, 3, 2, 1, 9, 5, 4, 8]
    assert hash_indices(np.arange(2), key=1).tolist() == [
        6238072747940578789,
        10451216379200822465,
    ]


@pytest.mark.parametrize("size", [2, 3, 5, 24])
def test_each_place_is_equally_likely(size: int) -> None:
    trials = 4000
    keys = [mix(number) for number in range(trials)]
    first = np.array([permute(np.zeros(1, np.int64), size=size, key=key)[0] for key in keys])
    counts = np.bincount(first, minlength=size)
    chi_square = ((counts - trials / size) ** 2 / (trials / size)).sum()
    assert chi_square < size - 1 + 5 * np.sqrt(2 * size)


def test_neighbours_are_not_kept_together() -> None:
    size = 20_000
    values = permute(np.arange(size), size=size, key=3).astype(np.float64)
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.03
    other = permute(np.arange(size), size=size, key=4).astype(np.float64)
    assert abs(np.corrcoef(values, other)[0, 1]) < 0.03


def test_mix_tells_places_and_lengths_apart() -> None:
    results = {mix(1, 2), mix(2, 1), mix(1), mix(1, 0), mix(0, 1), mix(-1)}
    assert len(results) == 6
    assert all(0 <= result < 2**64 for result in results)
