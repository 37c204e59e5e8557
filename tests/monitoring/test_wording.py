import pytest

from rtdlm.monitoring.wording import clock, flop, label, percent, short


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (7, "7"),
        (999.4, "999"),
        (999.5, "1.00k"),
        (9_994, "9.99k"),
        (9_996, "10.0k"),
        (12_345, "12.3k"),
        (99_960, "100k"),
        (999_499, "999k"),
        (999_500, "1.00M"),
        (10_236_160, "10.2M"),
        (7e9, "7.00B"),
        (1.5e15, "1,500T"),
        (float("nan"), "nan"),
    ],
)
def test_counts(value: float, text: str) -> None:
    assert short(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12, "12 FLOP"),
        (float("inf"), "inf FLOP"),
        (6e7, "60.0 MFLOP"),
        (1.2e11, "120 GFLOP"),
        (275e12, "275 TFLOP"),
    ],
)
def test_work(value: float, text: str) -> None:
    assert flop(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (0.4, "0:00"),
        (59.6, "1:00"),
        (61, "1:01"),
        (3599, "59:59"),
        (3661, "1:01:01"),
        (360_000, "100:00:00"),
    ],
)
def test_times(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_shares_and_labels() -> None:
    assert percent(0.3125) == "31.2 %"
    assert label("gradient_norm") == "gradient norm"
