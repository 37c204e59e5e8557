"""The second start of a run compiles nothing and computes the same bits."""

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from rtdlm import evaluate, train
from rtdlm.config.command_line import tell
from rtdlm.inference import load_generator
from tests.commands.conftest import SAMPLED, arguments

# `python -m rtdlm.train`, which then says how many programs were compiled and found.
SCRIPT = """
import json, sys
from collections import Counter
import jax
from rtdlm import train

events = Counter()
jax.monitoring.register_event_listener(lambda name, **_: events.update([name.split("/")[-1]]))
assert train.main(sys.argv[1:]) == 0
print(json.dumps([events["cache_misses"], events["cache_hits"]]))
"""
TROUBLE = "compiled programs are not kept here"
LITTLE = ("num_layers=1", "d_model=16", "d_ff=16", *SAMPLED)
TIMES = ("time", "seconds", "tokens_per_second", "mfu")


def start(text: Path, out: Path, cache: Path) -> tuple[int, int]:
    """Programs compiled and found by two steps of a run in a fresh process."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_COMP", "JAX_PERS"))}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments(text, out, "--steps", "2", fields=LITTLE)],
        env=inherited | {"RTDLM_CACHE_DIR": str(cache)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    compiled, found = json.loads(done.stdout.splitlines()[-1])
    return compiled, found


def numbers(out: Path) -> list[dict[str, Any]]:
    """What a run logged, without the clock."""
    parsed = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    kept = [line for line in parsed if line["kind"] in ("train", "eval")]
    return [{k: v for k, v in line.items() if k not in TIMES} for line in kept]


def notices(out: Path) -> list[str]:
    parsed = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [line["message"] for line in parsed if line["kind"] == "notice"]


@pytest.mark.slow
def test_a_warm_start_compiles_nothing_and_gives_the_same_bits(text: Path, tmp_path: Path) -> None:
    cold, warm, cache = tmp_path / "cold", tmp_path / "warm", tmp_path / "cache"
    compiled, _ = start(text, cold, cache)
    assert compiled > 0
    again, found = start(text, warm, cache)
    assert again == 0
    assert found >= compiled
    assert numbers(cold) == numbers(warm) != []
    for file in sorted((cold / "checkpoints").rglob("*.safetensors")):
        twin = warm / file.relative_to(cold)
        assert file.read_bytes() == twin.read_bytes(), file.name


def test_without_a_place_for_programs_everything_works_and_says_so(
    text: Path,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for reader in ("training.run", "evaluation.measure", "inference.load"):
        module = import_module(f"rtdlm.{reader}")
        monkeypatch.setattr(module, "keep_compiled_programs", lambda: TROUBLE)
    assert train.main(arguments(text, tmp_path / "out", "--steps", "1")) == 0
    assert notices(tmp_path / "out") == [TROUBLE]
    capsys.readouterr()
    assert evaluate.main(["--checkpoint", str(trained), "--json"]) == 0
    assert capsys.readouterr().err == f"notice: {TROUBLE}\n"
    load_generator(trained, notice=tell)
    assert capsys.readouterr().err == f"notice: {TROUBLE}\n"
