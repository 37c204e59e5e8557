"""A run with a compute controller, from training to a trace of what it does."""

import json
from pathlib import Path

import jax
import pytest

from rtdlm import evaluate, generate, trace, train
from rtdlm.models.load import load_model
from rtdlm.models.tms import with_strategy
from tests.commands.conftest import arguments

SETTINGS = (
    "num_layers=2", "use_compute_controller=true", "controller.max_steps=3",
    "controller.highest_price=2.0", "controller.calls=[knowledge]", "knowledge.kind=ngram",
    "knowledge.rows=64", "knowledge.heads=1", "knowledge.dim=4",
)  # fmt: skip
TEXT = "def read(path):"


@pytest.fixture(scope="module")
def controlled(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("controlled") / "run"
    assert train.main(arguments(text, out, "--steps", "12", fields=SETTINGS)) == 0
    return out


def told(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out


def test_the_log_says_how_the_policy_does(controlled: Path) -> None:
    rows = [json.loads(line) for line in (controlled / "metrics.jsonl").read_text().splitlines()]
    last = [row for row in rows if "compute_steps" in row][-1]
    assert 1 <= last["compute_steps"] <= 3
    assert 0 <= last["compute_calls"] <= 2
    for name in ("spent", "ponder", "unsure", "gain", "called"):
        assert f"compute_{name}" in last


def test_strategies_take_more_and_more(
    controlled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps, calls = [], []
    for strategy in ("fast", "balanced", "thorough"):
        given = ["--checkpoint", str(controlled), "--batches", "2", "--json"]
        assert evaluate.main([*given, "--strategy", strategy]) == 0
        held_out = json.loads(told(capsys))["held_out"]
        steps.append(held_out["steps"])
        calls.append(held_out["calls_knowledge"])
    assert steps == sorted(steps)
    assert steps[-1] == pytest.approx(3.0)
    assert calls[-1] == pytest.approx(2.0) and max(calls) == calls[-1]
    assert evaluate.main(["--checkpoint", str(controlled), "--batches", "1"]) == 0
    shown = told(capsys)
    assert "core steps:" in shown and "of knowledge a token" in shown


def test_a_trace_is_what_was_run(
    controlled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "trace.png"
    given = ["--checkpoint", str(controlled), "--text", TEXT, "--strategy", "fast"]
    assert trace.main([*given, "--picture", str(picture), "--json"]) == 0
    found = json.loads(told(capsys))
    assert "".join(token["text"] for token in found["tokens"]) == TEXT
    loaded = load_model(controlled)
    assert loaded.tokenizer is not None
    ids = loaded.tokenizer.encode(TEXT)[None]
    spent = jax.jit(with_strategy(loaded.model, "fast").scores)(loaded.params, ids, ids).spent
    assert spent is not None
    assert [token["steps"] for token in found["tokens"]] == spent.steps_BT[0].tolist()
    assert spent.calls_BTM is not None
    assert [token["calls"] for token in found["tokens"]] == spent.calls_BTM[0].tolist()
    steps = found["mean_steps"] * found["step_flops"]
    calls = found["mean_calls"][0] * found["call_flops"][0]
    assert found["spent_flops"] == pytest.approx(found["other_flops"] + steps + calls)
    every = found["other_flops"] + 3 * found["step_flops"] + 2 * found["call_flops"][0]
    assert found["all_steps_flops"] == pytest.approx(every)
    assert found["planned_flops"] == pytest.approx(
        found["other_flops"] + 0.35 * (every - found["other_flops"])
    )
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert trace.main([*given[:-1], "thorough", "--json"]) == 0
    whole = json.loads(told(capsys))
    assert whole["mean_calls"] == [2.0] and whole["mean_steps"] == 3.0
    assert whole["spent_flops"] == pytest.approx(every) == whole["all_steps_flops"]
    assert trace.main(given) == 0
    assert told(capsys).count("#") == sum(token["steps"] for token in found["tokens"])


def test_text_is_written_with_any_strategy(
    controlled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--checkpoint", str(controlled), "--prompt", "de", "--temperature", "0"]
    written = set()
    for strategy in ("fast", "thorough"):
        assert generate.main([*given, "--max-tokens", "5", "--strategy", strategy]) == 0
        written.add(told(capsys))
    assert all(text.startswith("de") for text in written)


def test_a_run_without_a_controller_has_nothing_to_trace(
    trained: Path, controlled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--checkpoint", str(trained)]
    assert trace.main([*given, "--text", "x"]) == 2
    assert "the model has no compute controller" in capsys.readouterr().err
    assert evaluate.main([*given, "--strategy", "fast"]) == 2
    assert "has no effect with use_compute_controller=False" in capsys.readouterr().err
    assert trace.main(["--checkpoint", str(controlled), "--text", ""]) == 2
    assert "the text has 0 tokens" in capsys.readouterr().err
    assert generate.main([
        "--checkpoint", str(controlled), "--prompt", "x", "--draft-layers", "1",
    ]) == 2  # fmt: skip
    assert "cannot be its draft" in capsys.readouterr().err
