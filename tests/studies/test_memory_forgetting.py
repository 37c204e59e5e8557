"""The study of forgetting: its streams, its arithmetic, and one run at a tiny size."""

from pathlib import Path

import numpy as np
import pytest

from rtdlm.evaluation.results import read_results
from studies.__main__ import main
from studies.memory_forgetting import POLICIES, SMOKE, STREAMS, Stream, draw, results


@pytest.mark.parametrize("kind", STREAMS)
def test_every_question_has_the_newest_value_of_a_fact_that_was_told(kind: str) -> None:
    streams = draw(SMOKE, kind, range(2))
    for seed in range(2):
        stream = Stream(*(field[:, seed] for field in streams))
        value: dict[int, int] = {}
        changes = 0
        for number in range(SMOKE.segments):
            for asked, right in zip(
                stream.asked_NBQ[number], stream.right_NBQ[number], strict=True
            ):
                assert right == value.get(int(asked), -1)
                assert right >= 0 or number == 0
            for fact, new in zip(stream.mention_NBS[number], stream.value_NBS[number], strict=True):
                changes += value.get(int(fact), new) != new
                value[int(fact)] = int(new)
        # Every fact and every noise has values of its own.
        assert len(set(value.values())) == len(value)
        assert (changes > 0) == (kind == "changes")
        noise = stream.mention_NBS[stream.mention_NBS >= SMOKE.facts]
        assert len(np.unique(noise)) == len(noise) > 0


def test_a_bar_is_twice_the_standard_error() -> None:
    right = {name: np.array([0.5, 0.6]) for name in POLICIES}
    right["adaptive"] = np.array([0.6, 0.8])
    streams = draw(SMOKE, "steady", range(2))
    found = {result.name: result for result in results("steady", right, streams)}
    gain = found["steady, adaptive/over age"]
    assert np.isclose(gain.value, 15.0)
    assert gain.bar == (">=", pytest.approx(10.0))
    assert gain.holds
    assert found["steady, use/over age"].bar is None
    assert found["steady, age/right"].spread == (50.0, 60.0)


@pytest.mark.slow
def test_the_study_runs(tmp_path: Path) -> None:
    out = tmp_path / "forgetting.json"
    assert main(["memory_forgetting", "--smoke", "--out", str(out)]) == 0
    found = {result.name: result for result in read_results(out).results}
    for kind in STREAMS:
        for name in POLICIES:
            assert 0 <= found[f"{kind}, {name}/right"].value <= 100
