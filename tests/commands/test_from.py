"""`python -m rtdlm.train --from`: a new run that starts from weights that exist."""

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from rtdlm import TMSModel, export, train
from rtdlm.data import Loader
from rtdlm.interop import write_pretrained
from rtdlm.models.load import load_model
from tests.commands.test_train import lines, losses, parameters, same
from tests.models.small import random_params, small_config

# No more than the run's own: the model comes with the folder.
OWN = (
    *("evaluation.num_batches=2", "evaluation.every_steps=2", "checkpoint.every_steps=2"),
    *("optimizer.warmup_steps=2", "monitoring.sample_tokens=8", "data.held_out_fraction=0.1"),
    "monitoring.tensorboard=false",
)
STILL = ("optimizer.learning_rate_rules={'': 0.0}",)
"""Every parameter's learning rate is zero."""


def command(folder: Path, out: Path, *more: str, fields: tuple[str, ...] = ()) -> list[str]:
    return ["--from", str(folder), "--out", str(out), *more, "--set", *OWN, *fields]


@pytest.fixture(scope="module")
def base(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the small run, to be taken away."""
    return Path(shutil.copytree(trained, tmp_path_factory.mktemp("from") / "base"))


@pytest.fixture(scope="module")
def tuned(base: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four steps of a run that starts from it."""
    out = tmp_path_factory.mktemp("from") / "tuned"
    assert train.main(command(base, out, "--text", str(text), "--steps", "4")) == 0
    return out


def test_the_first_losses_are_those_of_the_model_it_starts_from(
    trained: Path, tuned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, *later = lines(tuned, "eval")
    assert (before["step"], before["is_best"]) == (0, False)
    assert before["loss"] == lines(trained, "eval")[-1]["loss"], "the same held-out set"
    assert [line["step"] for line in later] == [2, 4]
    loaded = load_model(trained)
    batch = Loader([tuned / "data"], seq_len=32, batch_size=8, seed=0).batch(0)
    scores = jax.jit(loaded.model.batch_scores)(loaded.params, batch)
    nll, weights = scores.tokens.nll, jnp.asarray(batch.weights)
    expected = float(jnp.sum(nll * weights) / jnp.sum(weights))
    assert losses(tuned)[0] == (1, pytest.approx(expected, rel=1e-6))


def test_it_is_a_new_run_that_says_where_it_came_from(
    base: Path, trained: Path, tuned: Path
) -> None:
    assert [step for step, _ in losses(tuned)] == [1, 2, 3, 4]
    rates = [line["learning_rate"] for line in lines(tuned, "train")]
    assert rates[0] == 0.0 or rates[0] < rates[1], "its own warm-up"
    assert [line["tokens"] for line in lines(tuned, "train")] == [256, 512, 768, 1024]
    [start] = lines(tuned, "start")
    assert (start["resumed_from"], start["started_from"]) == (None, f"{base} at step 12")
    assert f"| started from | `{base} at step 12` |" in (tuned / "report.md").read_text()
    ours = tuned / "checkpoints" / "step_00000004"
    theirs = trained / "checkpoints" / "step_00000012"
    assert json.loads((ours / "state.json").read_text())["origin"] == {
        "folder": str(base), "step": 12, "sha256": (theirs / "COMMITTED").read_text().strip(),
        "origin": None,
    }  # fmt: skip
    assert (ours / "tokenizer.json").read_bytes() == (theirs / "tokenizer.json").read_bytes()
    config = load_model(tuned).model.config
    assert (config.d_model, config.vocab_size, config.short_conv) == (32, 320, 4)
    assert config.data.tokenizer == str(base / theirs.relative_to(trained) / "tokenizer.json")


def test_a_learning_rate_of_zero_leaves_every_bit_on_a_mesh_too(
    trained: Path, tmp_path: Path
) -> None:
    data = ("--data-dir", str(trained / "data"))
    fields = (*STILL, "mesh.strategy=fsdp")
    assert train.main(command(trained, tmp_path, *data, "--steps", "2", fields=fields)) == 0
    assert same(parameters(tmp_path, 2), parameters(trained, 12))


def test_interrupted_and_resumed_without_the_folder_it_ends_with_the_same_bits(
    base: Path, tuned: Path, text: Path, tmp_path: Path
) -> None:
    half, away = tmp_path / "half", tmp_path / "away"
    shutil.copytree(tuned, half)
    shutil.rmtree(half / "checkpoints" / "step_00000004")
    again = command(base, half, "--resume", "--text", str(text), "--steps", "4")
    base.rename(away)
    try:
        assert train.main(again) == 0
    finally:
        away.rename(base)
    assert same(parameters(half, 4), parameters(tuned, 4))
    assert losses(half) == losses(tuned)
    assert [line["loss"] for line in lines(half, "eval")] == [
        line["loss"] for line in lines(tuned, "eval")
    ]
    assert [line["resumed_from"] for line in lines(half, "start")] == [None, 2]
    states = (out / "checkpoints" / "step_00000004" / "state.json" for out in (half, tuned))
    first, second = (json.loads(state.read_text())["origin"] for state in states)
    assert first == second is not None


def test_a_run_that_is_there_is_not_begun_again(
    base: Path, tuned: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (tuned / "metrics.jsonl").read_bytes()
    assert train.main(command(base, tuned, "--text", str(text), "--steps", "4")) == 2
    assert "already holds a run (at step 4); add --resume to go on with it" in (
        capsys.readouterr().err
    )
    other = command(tuned, base, "--resume", "--text", str(text), "--steps", "14")
    assert train.main(other) == 2
    assert f"the run in {base} did not start from another model" in capsys.readouterr().err
    assert (tuned / "metrics.jsonl").read_bytes() == before


def test_a_hugging_face_folder_is_tuned_and_leaves_as_what_it_was(
    plain: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs, out, again = (tmp_path / name for name in ("theirs", "out", "again"))
    assert export.main(["--checkpoint", str(plain), "--to", "hf", "--out", str(theirs)]) == 0
    fields = (*STILL, "batch_size=8")
    given = command(theirs, out, "--text", str(text), "--steps", "1", fields=fields)
    assert train.main(given) == 0
    assert f", started from {theirs}\n" in capsys.readouterr().out
    assert lines(out, "eval")[0]["loss"] == pytest.approx(
        lines(plain, "eval")[-1]["loss"], rel=1e-6
    )
    assert export.main(["--checkpoint", str(out), "--to", "hf", "--out", str(again)]) == 0
    files = sorted(file.name for file in theirs.iterdir())
    assert sorted(file.name for file in again.iterdir()) == files
    for name in files:
        assert (again / name).read_bytes() == (theirs / name).read_bytes(), name
    shards = ("--data-dir", str(plain / "data"))
    prepared = command(theirs, tmp_path / "dry", "--dry-run", *shards)
    assert train.main(prepared) == 0
    told = capsys.readouterr().out
    assert "d_model: 32\n" in told and f"starts from:      {theirs}\n" in told
    assert not (tmp_path / "dry").exists()


# ------------------------------------------------------------------------------- what is refused


def foreign(folder: Path, **changes: Any) -> Path:
    """A Hugging Face folder without a tokenizer, with `changes` of its config.json."""
    config = small_config(qk_norm=False)
    write_pretrained(folder, config, random_params(TMSModel(config)))
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return folder


def cut(folder: Path) -> Path:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-50])
    return folder


def flipped(run: Path, folder: Path) -> Path:
    """A copy of the newest checkpoint with one bit changed."""
    shutil.copytree(run / "checkpoints" / "step_00000012", folder)
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-5] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    return folder


def empty(folder: Path) -> Path:
    folder.mkdir()
    return folder


FOLDERS = {
    "missing": (lambda run, folder: folder, "does not exist; name a run, one of its checkpoints"),
    "empty": (lambda run, folder: empty(folder), "holds no checkpoint; give the --out directory"),
    "cut": (lambda run, folder: cut(foreign(folder)), "model.safetensors cannot be read: "),
    "flipped": (flipped, "cannot be used: the contents of model.safetensors changed since it was"),
    "unknown": (
        lambda run, folder: foreign(folder, model_type="mamba"),
        "holds a model of type 'mamba', which is not among those that can be imported: llama",
    ),
    "other sizes": (
        lambda run, folder: foreign(folder, intermediate_size=33),
        "has shape (32, 16), expected (33, 16) by the config",
    ),
    "no tokenizer": (
        lambda run, folder: foreign(folder),
        "brings no tokenizer.json, so that no text can be prepared for its model; put it there",
    ),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_a_folder_that_no_run_can_start_from_is_one_sentence_and_leaves_nothing(
    case: str, trained: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, sentence = FOLDERS[case]
    folder, out = make(trained, tmp_path / "folder"), tmp_path / "out"
    assert train.main(command(folder, out, "--text", str(text))) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and told.count("\n") == 1
    assert str(folder) in told or "expected" in told
    assert sentence in told
    assert not out.exists()


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (("--preset", "tiny"), "--preset tiny is given, which is a model's size, and --from"),
        (("--tokenizer", "byte"), "tokenizer.json', not 'byte'; leave that out"),
        (("--set", "d_model=64", "rope_base=500.0"), "has d_model=32, not 64, rope_base=None, not"),
    ],
)
def test_what_contradicts_the_model_is_refused(
    more: tuple[str, ...],
    sentence: str,
    trained: Path,
    text: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    assert train.main([*command(trained, out, "--text", str(text)), *more]) == 2
    told = capsys.readouterr().err
    assert sentence in told and told.count("\n") == 1
    assert not out.exists()


def test_shards_of_another_tokenizer_are_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards, out = tmp_path / "shards", tmp_path / "out"
    shards.mkdir()
    rows = np.random.default_rng(0).integers(0, 200, size=(64, 33), dtype=np.int32)
    save_file({"input_ids": rows}, shards / "rows.safetensors")
    tokenizer = (trained / "data" / "tokenizer.json").read_text()
    (shards / "tokenizer.json").write_text(tokenizer.replace("<|document|>", "<|endoftext|>"))
    assert train.main(command(trained, out, "--data-dir", str(shards))) == 2
    saved = trained / "checkpoints" / "step_00000012" / "tokenizer.json"
    assert capsys.readouterr().err == (
        f"error: {shards} was prepared with another tokenizer than that of the model in {trained}; "
        f"prepare the text with --tokenizer {saved}\n"
    )
    assert not out.exists()
