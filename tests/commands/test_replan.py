"""`scripts/replan_experts.py`: a run goes on with an expert more or less, as the same function."""

from pathlib import Path

import jax
import numpy as np
import pytest

from rtdlm import train
from rtdlm.checkpoint import load_checkpoint, resolve_checkpoint
from rtdlm.models import TMSModel
from rtdlm.models.load import load_model
from tests.commands.conftest import arguments, run_in, script_of

EXPERTS = (
    *("experts.num_experts=3", "experts.top_k=1", "experts.scores=sigmoid"),
    *("experts.capacity_factor=3.0", "short_conv=0"),
)


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Path:
    return run_in(tmp_path_factory.mktemp("sparse"), text, steps=2, fields=EXPERTS)


@pytest.mark.slow
def test_a_run_goes_on_with_an_expert_more_and_then_less(
    sparse: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script, ids = script_of("replan_experts"), np.arange(20, dtype=np.int32)[None]

    def logits(run: Path) -> np.ndarray:
        loaded = load_model(run)
        model = TMSModel(loaded.model.config, precision={"compute": "float32"})
        return np.asarray(jax.jit(model.logits)(loaded.params, ids))

    larger, smaller = tmp_path / "larger", tmp_path / "smaller"
    capsys.readouterr()
    flags = ["--checkpoint", str(sparse), "--split", "2", "0", "--out", str(larger)]
    assert script.main(flags) == 0
    assert capsys.readouterr().out == (
        f"{larger}: step 2 with 4 experts a layer; train it with --out {larger} --resume --set "
        "experts.num_experts=4 experts.capacity_factor=4.0 experts.bias_rate=0.001 "
        "experts.balance_weight=0.01 beside its other options\n"
    )
    np.testing.assert_allclose(logits(larger), logits(sparse), atol=1e-5)
    # The copy is the last one, and nobody chooses it yet.
    again = ["--checkpoint", str(larger), "--prune", "3", "3", "--out", str(smaller)]
    assert script.main(again) == 0
    before, after = (load_checkpoint(resolve_checkpoint(run)) for run in (sparse, smaller))
    for was, now in ((before.params, after.params), (before.optimizer, after.optimizer)):
        # Biases came with the first split.
        added = {name for name in now if name.endswith("experts/bias")}
        assert was.keys() == now.keys() - added
        for name in was:
            np.testing.assert_array_equal(now[name], was[name], err_msg=name)
    more = ("experts.num_experts=4", "experts.capacity_factor=4.0")
    fields = (*EXPERTS, *more, "experts.bias_rate=0.001", "experts.balance_weight=0.01")
    given = arguments(text, larger, "--steps", "3", "--resume", fields=fields)
    assert train.main(given) == 0
    loaded = load_model(larger)
    assert loaded.step == 3
    (bias_LE,) = (leaf["bias"] for name, leaf in loaded.params.items() if name.endswith("experts"))
    # The copies' had been put back to -1, and have begun to come up.
    np.testing.assert_allclose(np.asarray(bias_LE)[:, 3], -0.999, atol=1e-6)
    assert script.main(flags) == 2
    assert f"{larger} is there already; name a new folder" in capsys.readouterr().err


def test_what_cannot_be_replanned_is_told_and_nothing_is_written(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "larger"
    flags = ["--checkpoint", str(trained), "--split", "1", "--out", str(out)]
    assert script_of("replan_experts").main(flags) == 2
    told = capsys.readouterr().err
    assert "1 experts are given for 0 layers that have experts; name one for each" in told
    assert not out.exists()
