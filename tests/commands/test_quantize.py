"""`scripts/quantize_model.py` and `--quantize`: bytes, a file that is read back, and losses."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from rtdlm import evaluate
from rtdlm.interop.quantize import Quantized, read_quantized

SCRIPT = Path(__file__).parents[2] / "scripts" / "quantize_model.py"


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("quantize_model", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_script_writes_weights_and_says_what_they_lose(
    script: Any, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "small.safetensors"
    flags = ["--checkpoint", str(trained), "--kind", "int8", "--out", str(out), "--measure"]
    assert script.main(flags) == 0
    told = capsys.readouterr().out
    assert f"written to {out}\n" in told
    before, after = (float(told.split(f" {word}")[0].split()[-1]) for word in ("before", "after"))
    assert 0 < abs(after / before - 1) < 0.01
    found = read_quantized(out)
    assert any(isinstance(item, Quantized) for item in found.values())
    assert script.main(["--checkpoint", str(tmp_path), "--kind", "int8"]) == 2


def test_fewer_bits_lose_more(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    losses = {}
    for kind in (None, "int8", "int4"):
        more = [] if kind is None else ["--quantize", kind]
        assert evaluate.main(["--checkpoint", str(trained), "--json", *more]) == 0
        losses[kind] = json.loads(capsys.readouterr().out)["held_out"]["loss"]
    assert abs(losses["int8"] - losses[None]) < abs(losses["int4"] - losses[None])
    assert losses["int4"] != losses[None]
