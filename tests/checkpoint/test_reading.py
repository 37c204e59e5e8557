"""Damage of every kind is named and passed over; what a person points at is found."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rtdlm.checkpoint import (
    describe_checkpoint,
    has_checkpoint,
    load_checkpoint,
    load_model,
    newest_complete,
    read_params,
    resolve_checkpoint,
)
from rtdlm.checkpoint.reading import step_directories
from rtdlm.config.errors import UserError
from tests.checkpoint.runs import digest, open_store, snapshot_at

PART = "model-00001-of-00002.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints at steps 1, 2 (the best) and 3."""
    root = tmp_path_factory.mktemp("saved")
    with open_store(root, keep_last=3) as store:
        for step in (1, 2, 3):
            store.save(snapshot_at(step), best=step == 2)
    return root


@pytest.fixture
def run(saved: Path, tmp_path: Path) -> Path:
    """A copy of the saved run that the test may damage."""
    return Path(shutil.copytree(saved, tmp_path / "run"))


def flip_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def raise_format(path: Path) -> None:
    """As a later version would write it: manifest and marker agree."""
    from rtdlm.disk import hash_file

    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    path.with_name("COMMITTED").write_text(hash_file(path))


DAMAGES: list[tuple[str, Callable[[Path], None], str]] = [
    (PART, flip_bit, f"the contents of {PART} changed since it was saved"),
    (PART, truncate, f"{PART} has 32849 bytes of 32856"),
    (PART, Path.unlink, f"{PART} is missing"),
    (
        "optimizer.safetensors.index.json",
        Path.unlink,
        "optimizer.safetensors.index.json is missing",
    ),
    ("state.json", flip_bit, "the contents of state.json changed since it was saved"),
    ("config.yaml", truncate, "config.yaml has 14 bytes of 21"),
    ("tokenizer.json", Path.unlink, "tokenizer.json is missing"),
    ("COMMITTED", Path.unlink, "it has no COMMITTED marker, so it is half-written"),
    ("COMMITTED", flip_bit, "the contents of manifest.json changed since it was saved"),
    ("manifest.json", flip_bit, "the contents of manifest.json changed since it was saved"),
    ("manifest.json", Path.unlink, "manifest.json is missing"),
    ("manifest.json", raise_format, "it has format 2, and this version reads format 1"),
]


@pytest.mark.parametrize(("name", "damage", "reason"), DAMAGES)
def test_damage_is_named_and_passed_over(
    run: Path, name: str, damage: Callable[[Path], None], reason: str
) -> None:
    newest = run / "checkpoints" / "step_00000003"
    damage(newest / name)
    found = newest_complete(run / "checkpoints")
    assert found.passed_over == {3: f"checkpoint {newest} is passed over: {reason}"}
    assert found.snapshot is not None
    assert digest(found.snapshot) == digest(snapshot_at(2))
    with pytest.raises(UserError) as error:
        load_checkpoint(newest)
    assert str(error.value) == (
        f"checkpoint {newest} cannot be used: {reason}; choose another step beside it"
    )


def test_several_damaged_ones_are_all_named(run: Path) -> None:
    checkpoints = run / "checkpoints"
    (checkpoints / "step_00000003" / "COMMITTED").unlink()
    (checkpoints / "step_00000002" / "state.json").unlink()
    found = newest_complete(checkpoints)
    assert list(found.passed_over) == [3, 2]
    assert found.snapshot is not None
    assert found.snapshot.step == 1
    (checkpoints / "step_00000001" / "manifest.json").unlink()
    found = newest_complete(checkpoints)
    assert list(found.passed_over) == [3, 2, 1]
    assert found.snapshot is None


def test_only_step_directories_count(tmp_path: Path) -> None:
    for name in ("step_00000020", "step_00000003", "step_123456789", "step_7", ".writing-step_1"):
        (tmp_path / name).mkdir()
    assert list(step_directories(tmp_path)) == [3, 20, 123456789]
    assert step_directories(tmp_path / "absent") == {}
    assert newest_complete(tmp_path / "absent") == (None, {})


@pytest.mark.parametrize(
    ("given", "step"),
    [
        ("", 3),
        ("checkpoints", 3),
        ("checkpoints/step_00000001", 1),
        ("checkpoints/best", 2),
    ],
)
def test_what_a_person_points_at(run: Path, given: str, step: int) -> None:
    expected = run / "checkpoints" / f"step_{step:08d}"
    assert resolve_checkpoint(run / given) == expected
    model = load_model(str(run / given))
    ours = snapshot_at(step)
    assert (model.directory, model.step) == (expected, step)
    assert (model.config, model.tokenizer) == (ours.config, ours.tokenizer)
    assert model.params.keys() == ours.params.keys()
    for name, array in model.params.items():
        np.testing.assert_array_equal(array, ours.params[name], strict=True)


def test_a_checkpoint_that_was_moved_is_still_one(run: Path, tmp_path: Path) -> None:
    moved = (run / "checkpoints" / "step_00000001").rename(tmp_path / "my-model")
    assert resolve_checkpoint(moved) == moved
    assert load_model(moved).step == 1


def test_a_checkpoint_without_a_tokenizer(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.save(snapshot_at(1, tokenizer=None))
    assert load_model(tmp_path).tokenizer is None
    assert load_checkpoint(tmp_path / "checkpoints" / "step_00000001").tokenizer is None


def test_inference_reads_no_optimizer_state(run: Path) -> None:
    for path in run.glob("checkpoints/step_00000003/optimizer*0000*"):
        flip_bit(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_model(run).step == 3
    assert newest_complete(run / "checkpoints").snapshot.step == 2  # type: ignore[union-attr]


def test_inference_says_what_it_passes_over(run: Path) -> None:
    flip_bit(run / "checkpoints" / "step_00000003" / PART)
    sentence = (
        f"checkpoint {run / 'checkpoints' / 'step_00000003'} is passed over: "
        f"the contents of {PART} changed since it was saved"
    )
    notices: list[str] = []
    assert load_model(run, notice=notices.append).step == 2
    assert notices == [sentence]
    with pytest.warns(UserWarning) as warned:
        load_model(run)
    assert [str(warning.message) for warning in warned] == [sentence]


def test_there_is_nothing_to_point_at(run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    shutil.rmtree(run / "checkpoints" / "step_00000002")
    shutil.rmtree(run / "checkpoints" / "step_00000003")
    only = run / "checkpoints" / "step_00000001"
    truncate(only / "config.yaml")
    sentences = {
        tmp_path / "absent": f"checkpoint {tmp_path}/absent does not exist; give the --out "
        "directory of a run, its checkpoints directory or one step in it",
        tmp_path / "empty": f"{tmp_path}/empty holds no checkpoint; give the --out directory of a "
        "run that has saved one",
        run: f"{run} holds no undamaged checkpoint: checkpoint {only} is passed over: config.yaml "
        "has 14 bytes of 21",
        only: f"checkpoint {only} cannot be used: config.yaml has 14 bytes of 21; choose another "
        "step beside it",
    }
    for path, sentence in sentences.items():
        with pytest.raises(UserError) as error:
            resolve_checkpoint(path)
        assert str(error.value) == sentence


def test_a_description_looks_at_no_array_and_parameters_are_verified(run: Path) -> None:
    newest = run / "checkpoints" / "step_00000003"
    for path in newest.glob("*0000*"):
        flip_bit(path)
    found, ours = describe_checkpoint(run), snapshot_at(3)
    assert (found.directory, found.step, found.state) == (newest, 3, ours.state)
    assert (found.config, found.tokenizer) == (ours.config, ours.tokenizer)
    assert found.sha256 == (newest / "COMMITTED").read_text().strip()
    with pytest.raises(UserError) as error:
        read_params(newest)
    assert str(error.value) == (
        f"checkpoint {newest} cannot be used: the contents of {PART} changed since it was saved; "
        "choose another step beside it"
    )
    params = read_params(run / "checkpoints" / "step_00000002")
    assert params.keys() == ours.params.keys()
    for name, array in params.items():
        np.testing.assert_array_equal(array, snapshot_at(2).params[name], strict=True)


def test_a_description_that_is_damaged_is_passed_over(run: Path) -> None:
    flip_bit(run / "checkpoints" / "step_00000003" / "state.json")
    notices: list[str] = []
    assert describe_checkpoint(run, notice=notices.append).step == 2
    assert "step_00000003 is passed over: the contents of state.json changed" in notices[0]


def test_a_run_has_checkpoints_even_if_they_are_damaged(run: Path) -> None:
    assert has_checkpoint(run)
    assert not has_checkpoint(run / "checkpoints")
    for path in run.glob("checkpoints/*/COMMITTED"):
        path.unlink()
    assert has_checkpoint(run)
