"""What `python -m rtdlm.evaluate` does beyond the evaluator, without its files."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from rtdlm.evaluation import measure
from rtdlm.models import TMSModel
from rtdlm.models.load import LoadedModel
from tests.models.small import packed_batch, random_params, small_config


def test_a_run_on_many_devices_is_measured_on_the_few_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = TMSModel(small_config(d_ff=24, mesh={"fsdp": 64}))
    loaded = LoadedModel(model, random_params(model), None, 3, Path("run/checkpoints/3"), None)
    batches = [packed_batch(model.config)]
    loader = SimpleNamespace(held_out_batches=lambda count: batches[:count], bytes_per_token=3.5)
    module = sys.modules["rtdlm.evaluation.measure"]
    monkeypatch.setattr(module, "load_any_model", lambda path, notice: loaded)
    monkeypatch.setattr(module, "_held_out", lambda loaded, data: loader)
    report = measure(Path("run"), num_batches=1)
    assert (report["checkpoint"], report["step"]) == ("run/checkpoints/3", 3)
    assert report["held_out"]["tokens"] == round(float(batches[0].weights.sum()))
    assert report["tokens_per_second"] > 0
    assert len(report["gradients"]["norms"]) == 3 + 2 * 11
    assert report["gradients"]["vanishing"] == []
