import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.peer.grid import Run, recipe, save, tuned_options
from benchmarks.text import read_characters, windows
from rtdlm.config import UserError

torch = pytest.importorskip("torch", reason="the peer needs PyTorch: pip install 'rtdlm[bench]'")

from benchmarks.peer.gpt import GPT  # noqa: E402
from benchmarks.peer.shape import Shape  # noqa: E402
from benchmarks.peer.side import evaluate, train  # noqa: E402

SMALL = {"length": 16, "d_model": 16, "num_layers": 1, "num_heads": 2, "d_ff": 32}
RECIPE = {"steps": 12, "warmup_steps": 1, "learning_rate": 1e-2, "batch_size": 4}


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "text.txt"
    file.write_text("abcdefgh" * 500)
    return file


def run(text: Path, target: float | None, **options: Any) -> Any:
    return train(text, seed=0, target=target, shape=SMALL, recipe=RECIPE, **options)


def test_without_a_target_the_peer_runs_to_its_end(text: Path) -> None:
    timing = run(text, None)
    assert (timing.reached, timing.steps) == (True, 12)
    assert timing.loss < np.log(8)  # it has begun to learn
    assert timing.cpu_seconds > 0
    assert timing.compile_cpu_seconds > 0, "what PyTorch loads on first use"


def test_with_a_target_it_stops_where_an_evaluation_reaches_it(text: Path) -> None:
    assert run(text, 10.0, every=3).steps == 6, "the first in the second half"
    missed = run(text, 0.0, every=5)
    assert (missed.reached, missed.steps) == (False, 12)


def test_a_seed_gives_the_same_run_and_another_seed_another(text: Path) -> None:
    first, again = run(text, None), run(text, None)
    other = train(text, seed=1, target=None, shape=SMALL, recipe=RECIPE)
    assert first.loss == again.loss != other.loss


def test_evaluation_is_the_mean_over_all_windows(text: Path) -> None:
    held_out = windows(read_characters(text).train_N, length=16)
    assert len(held_out.ids_BT) > 128  # more than one batch, the last one smaller
    model = GPT(Shape(vocab_size=8, **SMALL))
    logits = model.logits(torch.tensor(held_out.ids_BT)).detach().double().numpy()
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = -np.take_along_axis(log_p, held_out.labels_BT[..., None], -1).mean()
    assert evaluate(model, held_out) == pytest.approx(expected, rel=1e-5)


def test_recipes_that_reach_the_target_rank_before_those_that_come_near(tmp_path: Path) -> None:
    def answer(reached: bool, loss: float, cpu: float) -> dict[str, Any]:
        return {"reached": reached, "loss": loss, "steps": 1, "cpu_seconds": cpu}

    runs = {
        "near": Run({"a": 1}, answer(False, 2.0, 1.0)),
        "fast": Run({"a": 2}, answer(True, 1.9, 5.0)),
        "far": Run({"a": 3}, answer(False, 3.0, 0.5)),
        "slow": Run({"a": 4}, answer(True, 1.8, 9.0)),
    }
    ranked = sorted(runs.values(), key=lambda run: run.rank)
    assert ranked == [runs[name] for name in ("fast", "slow", "near", "far")]
    path = tmp_path / "tuned.json"
    with pytest.raises(UserError, match="not known yet; search for it with `python -m benchmarks"):
        tuned_options(path)
    save(ranked, 1.95, path)
    assert tuned_options(path) == {"a": 2}
    assert len(json.loads(path.read_text())["runs"]) == 4


def test_a_recipe_reads_as_many_rows_as_it_is_given() -> None:
    assert recipe(2e-3, 24, 12_000, "cosine", 0.1) == {
        "learning_rate": 2e-3,
        "final_learning_rate": 2e-4,
        "batch_size": 24,
        "schedule": "cosine",
        "steps": 500,
        "warmup_steps": 50,
    }
