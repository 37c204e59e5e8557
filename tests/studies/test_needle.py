"""The study of recall: its rows, its arithmetic, and one run from end to end at a tiny size."""

from pathlib import Path

import numpy as np
import pytest

from rtdlm.config import AGIConfig
from rtdlm.evaluation.results import read_results
from studies.__main__ import main
from studies.needle import SMOKE, WHOLE, Ran, Size, draw, kinds, results


@pytest.mark.parametrize("size", [WHOLE, SMOKE], ids=["whole", "smoke"])
def test_every_question_is_answered_by_a_pair_out_of_every_window(size: Size) -> None:
    task = size.task
    batch = draw(task, np.random.default_rng(0), 5)
    first_question = task.length - 4 * task.pairs
    conv = size.config["short_conv"] - 1
    reach = size.config["num_layers"] * (size.window - 1 + 2 * conv)
    assert task.planted + reach < first_question
    for ids, labels, weights in zip(batch.input_ids, batch.labels, batch.weights, strict=True):
        places = np.flatnonzero(ids[: task.planted] < task.keys)
        pairs = {int(ids[place]): int(ids[place + 1]) for place in places}
        assert len(places) == len(pairs) == task.pairs
        assert all(task.keys <= value < task.keys + task.values for value in pairs.values())
        assert (ids[task.planted : first_question] >= task.keys + task.values).all()
        asked = np.flatnonzero(weights)
        assert asked.tolist() == list(range(first_question, task.length, 2))
        assert [pairs[int(key)] for key in ids[asked]] == labels[asked].tolist()


def test_far_and_near_questions_are_told_apart() -> None:
    task = WHOLE.task
    far, near = (
        draw(task, np.random.default_rng(0), 2, asked=asked).weights[0] for asked in ("far", "near")
    )
    middle = task.length - 2 * task.pairs
    assert np.flatnonzero(far).tolist() == list(range(middle - 2 * task.pairs, middle, 2))
    assert np.flatnonzero(near).tolist() == list(range(middle, task.length, 2))
    # What the second question asks for was answered within the window.
    assert 4 * task.pairs <= WHOLE.window


def test_every_kind_differs_and_alone_in_its_attention() -> None:
    configs = [AGIConfig.from_dict({**WHOLE.config, **own}) for own in kinds(WHOLE).values()]
    assert len({str(config) for config in configs}) == len(configs)
    assert all(key.startswith("attention") for own in kinds(WHOLE).values() for key in own)


def test_bars_are_for_what_is_far() -> None:
    ran = {name: [Ran(0.5, 1.0, 10.0), Ran(1.0, 0.9, 12.0)] for name in kinds(WHOLE)}
    ran["sliding"] = [Ran(0.0625, 1.0, 8.0)]
    found = {result.name: result for result in results(WHOLE, ran)}
    assert found["gqa/right, far"].value == 75.0
    assert not found["gqa/right, far"].holds
    assert found["sliding/right, far"].holds
    assert found["sparse/right, near"].spread == (90.0, 100.0)
    assert found["guessing/right, far"].value == 6.25


@pytest.mark.slow
def test_the_study_runs(tmp_path: Path) -> None:
    out = tmp_path / "needle.json"
    assert main(["needle", "--smoke", "--out", str(out)]) == 0
    found = {result.name: result for result in read_results(out).results}
    for name in kinds(SMOKE):
        assert 0 <= found[f"{name}/right, far"].value <= 100
        assert found[f"{name}/CPU of training"].value > 0
