"""The study of formats: its arithmetic, and one run from end to end at a tiny size."""

from pathlib import Path

import pytest

from rtdlm.evaluation.results import read_results
from studies.__main__ import main
from studies.formats import Ran, results


def test_losses_are_compared_seed_by_seed_and_steps_as_ratios() -> None:
    full = [Ran(4.0, 1.0, 10.0, 20.0), Ran(5.0, 2.0, 12.0, 22.0)]
    low = [Ran(4.1, 0.5, 5.0, 9.0), Ran(4.95, 1.0, 6.0, 11.0)]
    found = {result.name: result for result in results({"float32": full, "bfloat16": low})}
    apart = found["bfloat16 beside float32/final loss apart"]
    assert apart.value == pytest.approx((2.5 + 1.0) / 2)
    assert apart.spread == (pytest.approx(1.0), pytest.approx(2.5))
    assert not apart.holds
    faster = found["bfloat16 beside float32/step faster"]
    assert faster.value == 2.0
    assert faster.holds
    assert found["float32/step"].value == 1500.0
    assert found["bfloat16/CPU of the command"].value == 5.5


@pytest.mark.slow
def test_the_command_is_run_in_both_formats(tmp_path: Path) -> None:
    out = tmp_path / "formats.json"
    assert main(["formats", "--smoke", "--out", str(out)]) == 0
    found = {result.name: result for result in read_results(out).results}
    for name in ("float32", "bfloat16"):
        assert 4.0 < found[f"{name}/loss"].value < 6.5
        assert found[f"{name}/step"].value > 0
        assert found[f"{name}/CPU of the command"].value > 1
    assert 0 < found["bfloat16 beside float32/final loss apart"].value < 1
