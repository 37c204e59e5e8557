"""`python -m rtdlm.train` as a person uses it: what it leaves, how it resumes, what it refuses."""

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from rtdlm import train
from tests.commands.conftest import REMEMBERS, SAMPLED, arguments


def lines(out: Path, kind: str) -> list[dict[str, Any]]:
    parsed = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [line for line in parsed if line["kind"] == kind]


def losses(out: Path) -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in lines(out, "train")]


def parameters(out: Path, step: int) -> dict[str, Any]:
    return load_file(out / "checkpoints" / f"step_{step:08d}" / "model.safetensors")


def same(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    return ours.keys() == theirs.keys() and all(
        ours[name].tobytes() == theirs[name].tobytes() for name in ours
    )


def test_a_run_leaves_all_that_it_promises(trained: Path) -> None:
    for name in ("metrics.jsonl", "evaluation.json", "report.md", "data/manifest.json"):
        assert (trained / name).stat().st_size > 100, name
    assert (trained / "curves.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert list((trained / "tensorboard").iterdir())
    # Two newest, of which the last is also the best here.
    assert sorted(path.name for path in (trained / "checkpoints").glob("step_*")) == [
        "step_00000010",
        "step_00000012",
    ]


def test_every_step_is_logged_and_the_loss_falls(trained: Path) -> None:
    steps, values = zip(*losses(trained), strict=True)
    assert steps == tuple(range(1, 13))
    # An untrained model guesses among the 320 rows of the bytes' table; its logits' unit variance
    # costs half a nat more.
    assert values[0] == pytest.approx(math.log(320) + 0.5, abs=0.3)
    evaluations = [(line["step"], line["loss"]) for line in lines(trained, "eval")]
    assert [step for step, _ in evaluations] == [5, 10, 12]
    assert evaluations[-1][1] < evaluations[0][1] < values[0]


def test_the_report_and_the_evaluation_agree_with_the_log(trained: Path) -> None:
    last = lines(trained, "eval")[-1]
    assert f"{last['loss']:.4f}" in (trained / "report.md").read_text()
    report = json.loads((trained / "evaluation.json").read_text())
    assert report["step"] == 12
    assert report["held_out"]["loss"] == last["loss"]
    assert report["held_out"]["perplexity"] == pytest.approx(math.exp(last["loss"]))
    assert report["held_out"]["bits_per_byte"] == pytest.approx(
        last["loss"] / math.log(2), rel=0.05
    )
    assert len(report["gradients"]["norms"]) == 2 * 14 + 3
    assert report["gradients"]["not_finite"] == []


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(
    trained: Path, text: Path, tmp_path: Path
) -> None:
    assert train.main(arguments(text, tmp_path / "same", "--steps", "12")) == 0
    assert losses(tmp_path / "same") == losses(trained)
    assert same(parameters(tmp_path / "same", 12), parameters(trained, 12))
    assert train.main(arguments(text, tmp_path / "other", "--steps", "1", "--seed", "1")) == 0
    assert losses(tmp_path / "other")[0] != losses(trained)[0]


@pytest.fixture
def half(trained: Path, tmp_path: Path) -> Iterator[Path]:
    """The run as it stood after step 10: what a kill in step 12 would have left."""
    out = tmp_path / "half"
    shutil.copytree(trained, out)
    shutil.rmtree(out / "checkpoints" / "step_00000012")
    yield out


def test_a_resumed_run_repeats_the_uninterrupted_one_bitwise(
    trained: Path, half: Path, text: Path
) -> None:
    assert train.main(arguments(text, half, "--steps", "12", "--resume")) == 0
    assert losses(half) == losses(trained)
    assert same(parameters(half, 12), parameters(trained, 12))
    assert [line["resumed_from"] for line in lines(half, "start")] == [None, 10]


def test_rows_that_start_short_grow_and_a_resumed_run_knows_how_far_it_was(
    remembering: Path, text: Path, tmp_path: Path
) -> None:
    """With memory, which learns from short rows what it is for."""
    logged = lines(remembering, "train")
    assert [line["tokens"] for line in logged] == [8 * 32 * step for step in range(1, 9)]
    assert all(0 < line["memory_gate_recurrent"] < 1 for line in logged)
    # Of two segments the second finds the store half full, later on of four the last ones all.
    assert logged[0]["memory_episodic_fill"] == 0.25 < logged[-1]["memory_episodic_fill"]
    half = tmp_path / "half"
    shutil.copytree(remembering, half)
    shutil.rmtree(half / "checkpoints" / "step_00000008")
    whole = arguments(text, half, "--steps", "8", "--resume", fields=REMEMBERS)
    assert train.main(whole) == 0
    assert same(parameters(half, 8), parameters(remembering, 8))
    assert losses(half) == losses(remembering)


def test_resume_passes_over_a_damaged_checkpoint_and_names_it(
    trained: Path, half: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = half / "checkpoints" / "step_00000010" / "optimizer.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-5] ^= 1
    damaged.write_bytes(content)
    shutil.copytree(
        trained / "checkpoints" / "step_00000012", half / "checkpoints" / "step_00000012"
    )
    (half / "checkpoints" / "step_00000012" / "COMMITTED").unlink()
    assert train.main(arguments(text, half, "--steps", "12", "--resume")) == 2
    told = capsys.readouterr().err
    assert "step_00000010" in told
    assert "step_00000012" in told
    assert told.count("\n") == 1


def test_resume_refuses_another_config_and_names_the_keys(
    half: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = arguments(text, half, "--steps", "12", "--resume", "--lr", "0.5", fields=("d_ff=48",))
    assert train.main(changed) == 2
    assert capsys.readouterr().err == (
        "error: the checkpoint at step 10 was made with another config: d_ff is 48, was 64, "
        "optimizer.learning_rate is 0.5, was None; resume with the values it was made with, or "
        "start a new run in another --out\n"
    )


def test_resume_refuses_other_text(
    half: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.txt").write_text("Something else entirely.\n" * 400)
    assert train.main(arguments(tmp_path / "other.txt", half, "--steps", "12", "--resume")) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert told.count("\n") == 1


def test_an_output_directory_in_use_is_not_overwritten(
    trained: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (trained / "metrics.jsonl").read_bytes()
    assert train.main(arguments(text, trained, "--steps", "12")) == 2
    assert capsys.readouterr().err == (
        f"error: {trained} already holds a run (at step 12); add --resume to go on with it, or "
        "choose another --out\n"
    )
    assert (trained / "metrics.jsonl").read_bytes() == before


def test_a_finished_run_says_that_its_budget_is_spent(
    half: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(arguments(text, half, "--steps", "10", "--resume")) == 2
    assert capsys.readouterr().err == (
        "error: the run already stands at step 10 and its budget of 10 steps is spent; raise "
        "--steps (or --epochs, --tokens, --seconds) to go on\n"
    )


def test_patience_stops_early_and_keeps_the_best(text: Path, tmp_path: Path) -> None:
    fields = ("evaluation.patience=1", "evaluation.every_steps=1", "optimizer.schedule=constant")
    # A learning rate that ruins the model: held-out loss soon rises.
    bad = arguments(text, tmp_path / "out", "--steps", "40", "--lr", "30", fields=fields)
    assert train.main(bad) == 0
    [finish] = lines(tmp_path / "out", "finish")
    evaluations = lines(tmp_path / "out", "eval")
    assert finish["reason"] == "no better held-out loss in 1 evaluations"
    assert finish["step"] == evaluations[-1]["step"] < 40
    assert [line["is_best"] for line in evaluations] == [True] * (len(evaluations) - 1) + [False]
    best = (tmp_path / "out" / "checkpoints" / "best").read_text().strip()
    assert best == f"step_{evaluations[-2]['step']:08d}"


def test_outputs_that_start_at_zero_raise_no_alarm(text: Path, tmp_path: Path) -> None:
    fields = ("zero_init_outputs=true", "evaluation.every_steps=1")
    assert train.main(arguments(text, tmp_path, "--steps", "3", fields=fields)) == 0
    assert lines(tmp_path, "notice") == []


def test_epochs_and_tokens_become_steps(text: Path, tmp_path: Path) -> None:
    assert train.main(arguments(text, tmp_path / "tokens", "--tokens", "600")) == 0
    assert losses(tmp_path / "tokens")[-1][0] == 3  # of 8 x 32 tokens
    [start] = lines(tmp_path / "tokens", "start")
    assert start["total_steps"] == 3


def test_a_time_budget_ends_the_run(text: Path, tmp_path: Path) -> None:
    assert train.main(arguments(text, tmp_path / "out", "--seconds", "5")) == 0
    trained = lines(tmp_path / "out", "train")
    assert len(trained) > 1
    assert trained[-1]["learning_rate"] < max(line["learning_rate"] for line in trained)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (("--preset", "tinny"), "error: unknown preset 'tinny'; did you mean 'tiny'?"),
        (("--set", "num_layer=3"), "error: unknown option 'num_layer'; did you mean 'num_layers'?"),
        (("--set", "d_model=33"), "error: d_model=33 is not divisible by num_heads=4"),
        (
            ("--set", "batch_size=12"),
            "error: a micro-batch of 12 rows does not split over the mesh's data x fsdp = 8",
        ),
        (
            ("--set", "mesh.data=3"),
            "error: mesh data=3 x fsdp=1 x expert=1 x context=1 x tensor=1 does not fit 8",
        ),
        (("--config", "none.yaml"), "error: config file none.yaml does not exist"),
        (("--data-dir", "shards"), "error: both --text and --data-dir name training data"),
        (
            ("--set", "optimizer.weight_decay_rules={zebra: 0.0}"),
            "error: optimizer.weight_decay_rules has 'zebra', which matches no parameter",
        ),
        (("--tokenizer", "wordpiece"), "error: "),
        (
            ("--set", "max_seq_len=32", "memory.segment=32", "memory.task_tokens=2"),
            "error: memory.segment=32 is as long as rows, and each begins with an empty memory",
        ),
    ],
)
def test_bad_options_end_with_one_sentence(
    more: tuple[str, ...],
    sentence: str,
    text: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    status = train.main(["--text", str(text), "--out", str(tmp_path / "out"), *more])
    told = capsys.readouterr().err
    assert status == 2
    assert told.startswith(sentence)
    assert told.count("\n") == 1


def test_no_data_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == (
        "error: no training data was named; give --text FILE_OR_DIR, --text python-library or "
        "--data-dir SHARDS\n"
    )


def test_dry_run_prints_config_counts_and_memory_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    small = ["--dry-run", "--out", str(out), "--set", "d_ff=64", "max_seq_len=16", "num_layers=1"]
    assert train.main(small) == 0
    told = capsys.readouterr().out
    assert "d_model: 256\n" in told
    assert "parameters:       4,443,010 total, 4,443,010 active a token, 4,194,304 in" in told
    assert "peak memory:" in told
    assert not out.exists()


def test_a_dry_run_says_which_mesh_a_run_would_choose(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["d_model=32", "d_ff=64", "max_seq_len=16", "num_layers=1", "batch_size=8"]
    options = ["--dry-run", "--out", str(tmp_path / "out"), "--set", *small, "mesh.strategy=auto"]
    assert train.main(options) == 0
    told = capsys.readouterr().out
    assert "  strategy: auto\n" not in told
    assert "the fastest of the " in told and " arrangements that fit" in told


def test_a_real_book_trains_from_one_command(shared_data: Path, tmp_path: Path) -> None:
    book, out = shared_data / "tinyshakespeare.txt", tmp_path / "out"
    assert train.main(arguments(book, out, "--steps", "60", "--seed", "1", fields=SAMPLED)) == 0
    # Below what knowing the letters' frequencies alone would give: 3.3 nats.
    assert lines(out, "eval")[-1]["loss"] < 3.2
    report = (out / "report.md").read_text()
    [finish] = lines(out, "finish")
    assert finish["sample"]
    assert "## Sample" in report
    assert (out / "curves.png").exists()
