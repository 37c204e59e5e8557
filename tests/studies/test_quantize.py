"""The study of weights in few bits: its arithmetic, and one run from end to end at a tiny size."""

from pathlib import Path

import pytest

from rtdlm.evaluation.results import read_results
from studies.__main__ import main
from studies.quantize import Measured, results


def test_perplexities_are_compared_seed_by_seed() -> None:
    found = {
        result.name: result
        for result in results(
            {
                "float32": [Measured(10.0, 400), Measured(20.0, 400)],
                "int8": [Measured(10.05, 110), Measured(20.3, 110)],
            }
        )
    }
    change = found["int8/perplexity change"]
    assert change.value == pytest.approx((0.5 + 1.5) / 2)
    assert change.bar == ("<=", 1.0)
    assert found["int8/of float32's bytes"].value == pytest.approx(0.275)
    assert "float32/perplexity change" not in found


@pytest.mark.slow
def test_a_model_is_trained_and_rounded_to_every_format(tmp_path: Path) -> None:
    out = tmp_path / "quantize.json"
    assert main(["quantize", "--smoke", "--out", str(out)]) == 0
    found = {result.name: result for result in read_results(out).results}
    sizes = [found[f"{name}/of float32's bytes"].value for name in ("int8", "int4", "nf4")]
    assert sizes == sorted(sizes, reverse=True)
    assert abs(found["int8/perplexity change"].value) < 1
