"""`python -m rtdlm.plan`: mistakes are one sentence and status 2; answers are text or JSON."""

import json
from pathlib import Path

import pytest

from rtdlm import plan
from rtdlm.interop import write_pretrained
from rtdlm.models import TMSModel
from tests.models.small import random_params, small_config

SIZES = ("vocab_size", "max_seq_len", "d_model", "num_layers", "num_heads", "num_kv_heads", "d_ff")
TINY = ["--set", "d_model=32", "num_layers=1", "num_heads=2", "num_kv_heads=1", "d_ff=32",
        "vocab_size=64", "max_seq_len=16"]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "--devices is missing"),
        (["--devices", "v9:4x4"], "kinds are v4, v5e"),
        (["--devices", "v5e:banana"], "has no number or shape of v5e devices"),
        (["--devices", "cpu:3"], "does not split over the mesh's data x fsdp = 3"),
        (["--devices", "cpu:8", "--set", "mesh.fsdp=3"], "choose axes that multiply to 8"),
        (["--devices", "cpu:8", "--out", "x"], "--out has no effect"),
        (["--devices", "cpu:8", "--recommend", "--profile-collectives"], "ask one"),
        (["--profile-collectives", "--devices", "v5e:4x4"], "runs on devices that are here"),
        (["--profile-collectives", "--from", "x"], "--from x has no effect"),
        (["--devices", "cpu:8", "--from", "none"], "--from none does not exist"),
        (["--devices", "cpu:8", "--preset", "huge"], "huge"),
    ],
)
def test_a_mistake_is_one_sentence(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan.main(arguments) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and sentence in told and len(told.splitlines()) == 1


def test_a_plan_as_text_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan.main(["--devices", "cpu:8", *TINY]) == 0
    assert "fits in " in capsys.readouterr().out.splitlines()[-1]
    assert plan.main(["--devices", "cpu:8", "--json", *TINY]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fits"] is True and found["axes"] == {"data": 8}


def test_a_model_from_elsewhere_is_planned_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small_config(qk_norm=False)
    write_pretrained(tmp_path, config, random_params(TMSModel(config)))
    given = ["--from", str(tmp_path), "--devices", "cpu:4", "--recommend"]
    assert plan.main([*given, "--json", "--batch-size", "4"]) == 0
    theirs = json.loads(capsys.readouterr().out)["choice"]
    same = [f"{name}={getattr(config, name)}" for name in SIZES]
    given[:2] = ["--set", *same, "short_conv=0", "value_residual=false", "qk_norm=false"]
    assert plan.main([*given, "--json", "--batch-size", "4"]) == 0
    assert json.loads(capsys.readouterr().out)["choice"] == theirs
    given = ["--from", str(tmp_path), "--devices", "cpu:4"]
    assert plan.main([*given, "--set", "d_model=32"]) == 2
    assert "has d_model=16, not 32; leave that out" in capsys.readouterr().err


def test_a_recommendation(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan.main(["--devices", "v5e:2x4", "--recommend", *TINY]) == 0
    assert "the fastest of the" in capsys.readouterr().out


def test_collectives_are_timed_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from rtdlm.parallel import profile

    profile.profile_collective_communication.__kwdefaults__["sizes"] = (1024, 4096)
    try:
        assert plan.main(["--profile-collectives", "--out", str(tmp_path / "found")]) == 0
    finally:
        profile.profile_collective_communication.__kwdefaults__["sizes"] = profile.SIZES
    assert "all-to-all" in capsys.readouterr().out
    assert (tmp_path / "found" / "collectives.png").read_bytes().startswith(b"\x89PNG")
    assert len(json.loads((tmp_path / "found" / "collectives.json").read_text())["timings"]) == 8
