"""`scripts/quantize_model.py` and `--quantize`: bytes, a model that generates, and losses."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from rtdlm import TMSModel, evaluate, generate
from rtdlm.config.sampling import SamplingConfig
from rtdlm.inference import Generator
from rtdlm.interop import read_quantized_model
from rtdlm.interop.quantize import rounded_params
from rtdlm.models.load import load_model
from tests.commands.conftest import script_of


@pytest.fixture(scope="module")
def script() -> Any:
    return script_of("quantize_model")


def test_the_script_writes_a_model_and_says_what_it_loses(
    script: Any, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "small"
    flags = ["--checkpoint", str(trained), "--kind", "int8", "--out", str(out), "--measure"]
    assert script.main(flags) == 0
    told = capsys.readouterr().out
    assert f"written to {out}\n" in told
    before, after = (float(told.split(f" {word}")[0].split()[-1]) for word in ("before", "after"))
    assert 0 < abs(after / before - 1) < 0.01
    config, params, tokenizer = read_quantized_model(out)
    loaded = load_model(trained)
    assert config == loaded.model.config
    jax.tree.map(np.testing.assert_array_equal, params, rounded_params(loaded.params, "int8"))
    assert loaded.tokenizer is not None and tokenizer is not None
    written = Generator(TMSModel(config), jax.device_put(params), loaded.tokenizer)
    assert generate.main(["--checkpoint", str(out), "--prompt", "The", "--temperature", "0"]) == 0
    [expected] = written.generate(["The"], SamplingConfig(temperature=0.0))
    assert capsys.readouterr().out == f"The{expected.text}\n"
    assert script.main(flags) == 2
    assert "is there already; name a new or an empty folder" in capsys.readouterr().err
    (out / "config.yaml").write_text("[1")
    assert generate.main(["--checkpoint", str(out), "--prompt", "The"]) == 2
    assert "config.yaml is not readable YAML" in capsys.readouterr().err
    (out / "config.yaml").unlink()
    assert generate.main(["--checkpoint", str(out), "--prompt", "The"]) == 2
    assert "config.yaml does not exist" in capsys.readouterr().err


def test_fewer_bits_lose_more(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    losses = {}
    for kind in (None, "int8", "int4"):
        more = [] if kind is None else ["--quantize", kind]
        assert evaluate.main(["--checkpoint", str(trained), "--json", *more]) == 0
        losses[kind] = json.loads(capsys.readouterr().out)["held_out"]["loss"]
    assert abs(losses["int8"] - losses[None]) < abs(losses["int4"] - losses[None])
    assert losses["int4"] != losses[None]
