"""`python -m rtdlm.evaluate`: the run's own figures again, and what it says of a model's health."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from rtdlm import evaluate, prepare
from tests.commands.conftest import arguments
from tests.commands.test_train import lines


def test_it_repeats_the_figures_of_the_run(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main(["--checkpoint", str(trained), "--batches", "2", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    last = lines(trained, "eval")[-1]
    for name in ("loss", "top1", "top5", "entropy", "bits_per_byte"):
        # The run was on eight devices and this is on one: sums differ in their order.
        assert report["held_out"][name] == pytest.approx(last[name], rel=1e-6), name
    assert report["step"] == 12
    assert report["held_out"]["perplexity"] == pytest.approx(math.exp(last["loss"]))
    assert all(norm > 0 for norm in report["gradients"]["norms"].values())
    assert report["gradients"]["not_finite"] == []
    assert report["tokens_per_second"] > 0


def test_the_table_names_what_a_person_asks_for(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main(["--checkpoint", str(trained / "checkpoints" / "step_00000010")]) == 0
    told = capsys.readouterr().out
    assert "step:            10\n" in told
    assert "gradients:       healthy\n" in told
    for name in ("held-out loss:", "perplexity:", "bits per byte:", "top-5 accuracy:", "speed:"):
        assert name in told


def test_other_text_needs_the_same_tokenizer(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "other.txt"
    text.write_text("Something else entirely, again and again.\n" * 200)
    for kind, status in (("bpe", 2), ("byte", 0)):
        out = tmp_path / kind
        given = ["--text", str(text), "--out", str(out), "--tokenizer", kind]
        assert prepare.main([*given, "--vocab-size", "300"]) == 0
        assert evaluate.main(["--checkpoint", str(trained), "--data-dir", str(out)]) == status
    assert "was prepared with another tokenizer than the checkpoint's" in capsys.readouterr().err


def test_on_the_device_of_the_run_the_figures_are_the_same_bits(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A process of its own has one device, as `evaluate` uses one.
    given = arguments(text, tmp_path / "out", "--steps", "5")
    subprocess.run([sys.executable, "-m", "rtdlm.train", *given], check=True, capture_output=True)
    assert evaluate.main(["--checkpoint", str(tmp_path / "out"), "--batches", "2", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    [last] = lines(tmp_path / "out", "eval")
    for name in ("loss", "top1", "top5", "entropy", "bits_per_byte"):
        assert report["held_out"][name] == last[name], name
