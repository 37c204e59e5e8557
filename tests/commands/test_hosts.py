"""A run of several processes, over loopback: the same run as one process has."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from rtdlm import train
from rtdlm.checkpoint import load_model, newest_complete
from rtdlm.config import build_config
from rtdlm.config.command_line import UNFINISHED, USER_MISTAKE
from tests.commands.conftest import arguments
from tests.commands.test_train import lines, losses

DEVICES = 8
FIELDS = (
    *("mesh.strategy=fsdp", "optimizer.name=adamw", "optimizer.epsilon=1e-5", "d_model=64"),
    *("num_heads=8", "num_kv_heads=8", "monitoring.tensorboard=false", "hosts.silent_seconds=20"),
    *("short_conv=0", "value_residual=false"),
)


def start(
    text: Path, out: Path, *more: str, processes: int, only: int | None = None,
    fields: tuple[str, ...] = (),
) -> list[subprocess.Popen[str]]:  # fmt: skip
    """The processes of one run, or all but those from `only` on."""
    return launch(arguments(text, out, *more, fields=(*FIELDS, *fields)), processes, only)


def launch(
    given: list[str], processes: int, only: int | None = None
) -> list[subprocess.Popen[str]]:
    """The processes of the run that these arguments describe."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = os.environ.get("XLA_FLAGS", "")
    shared = {
        "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={DEVICES // processes}",
        "RTDLM_COORDINATOR": f"127.0.0.1:{port}",
        "RTDLM_NUM_PROCESSES": str(processes),
    }
    command = [sys.executable, "-m", "rtdlm.train", *given]
    return [
        subprocess.Popen(
            command,
            env=os.environ | shared | {"RTDLM_PROCESS_ID": str(number)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(processes if only is None else only)
    ]


def end(processes: list[subprocess.Popen[str]], status: int) -> list[str]:
    """What each said, after all ended with `status`."""
    said = [process.communicate(timeout=240)[0] for process in processes]
    assert {process.returncode for process in processes} == {status}, "\n".join(said)
    return said


def alone(text: Path, out: Path, *more: str) -> list[tuple[int, float]]:
    """Losses of one process with all devices."""
    assert train.main(arguments(text, out, *more, fields=FIELDS)) == 0
    return losses(out)


@pytest.fixture(scope="module")
def whole(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight steps of one process."""
    out = tmp_path_factory.mktemp("hosts") / "whole"
    alone(text, out, "--steps", "8")
    return out


def assert_close(ours: list[tuple[int, float]], theirs: list[tuple[int, float]]) -> None:
    assert [step for step, _ in ours] == [step for step, _ in theirs]
    np.testing.assert_allclose([x for _, x in ours], [x for _, x in theirs], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("processes", [2, 4])
def test_several_processes_train_as_one(
    whole: Path, text: Path, tmp_path: Path, processes: int
) -> None:
    out = tmp_path / "out"
    said = end(start(text, out, "--steps", "8", processes=processes), 0)
    assert_close(losses(out), losses(whole))
    assert f"{DEVICES} x cpu on {processes} hosts" in said[0]
    assert not any("step" in other for other in said[1:]), "one of them talks"
    theirs = load_model(whole).params
    for name, ours in load_model(out).params.items():
        np.testing.assert_allclose(ours, theirs[name], atol=1e-5, rtol=1e-4, err_msg=name)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_signals_to_one_and_late_to_the_other_end_both_and_any_number_of_processes_goes_on(
    whole: Path, text: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    fields = ("data.prefetch=1", "checkpoint.every_steps=100", "evaluation.every_steps=100")
    processes = start(text, out, "--steps", "8", processes=2, fields=fields)
    while not (out / "metrics.jsonl").exists() or not losses(out):
        assert all(process.poll() is None for process in processes)
        time.sleep(0.01)
    processes[1].send_signal(signal.SIGTERM)
    # The first process ends because the second said so, and saves when its own signal comes.
    while not list((out / "checkpoints").glob("*step_*")):
        assert all(process.poll() is None for process in processes)
        time.sleep(0.001)
    processes[0].send_signal(signal.SIGTERM)
    said = end(processes, UNFINISHED)
    assert "stopped by SIGTERM; go on with --resume" in said[0]
    saved = newest_complete(out / "checkpoints").snapshot
    assert saved is not None and saved.step == losses(out)[-1][0], "not one step is lost"
    for name, mesh in (("one", "mesh.fsdp=2"), ("other", "mesh.strategy=data")):
        copy = tmp_path / name
        shutil.copytree(out, copy)
        command = arguments(text, copy, "--steps", "8", "--resume", fields=(*FIELDS, mesh))
        command = [part for part in command if part != "mesh.strategy=fsdp"]
        assert train.main(command) == 0
        assert [line["resumed_from"] for line in lines(copy, "start")] == [None, saved.step]
        assert_close(losses(copy), losses(whole))


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_several_processes_start_from_a_model_as_one_does(whole: Path, tmp_path: Path) -> None:
    """Two from a checkpoint that one wrote, and one from what these two wrote."""
    model = ("d_model=64", "num_heads=8", "num_kv_heads=8")
    still = "optimizer.learning_rate_rules={'': 0.0}"
    own = (*(field for field in FIELDS if field not in model), still)

    def given(folder: Path, out: Path) -> list[str]:
        data = ("--data-dir", str(whole / "data"), "--steps", "1")
        return ["--from", str(folder), "--out", str(out), *data, "--set", *own]

    two, one = tmp_path / "two", tmp_path / "one"
    end(launch(given(whole, two), 2), 0)
    assert list(two.glob("checkpoints/*/model.p00001.safetensors")), "each wrote its part"
    assert train.main(given(two, one)) == 0
    assert_close(losses(two), losses(one))
    kept = load_model(whole).params
    for out in (two, one):
        for name, ours in load_model(out).params.items():
            np.testing.assert_array_equal(ours, kept[name], err_msg=name)


def test_a_process_that_does_not_come_is_named_to_all(text: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    fields = ("hosts.start_seconds=8",)
    said = end(start(text, out, "--steps", "8", processes=4, only=2, fields=fields), USER_MISTAKE)
    expected = (
        "error: processes 2, 3 of 4 (numbered from 0) did not come within 8 s of the start; start "
        "all 4\n"
    )
    assert said == [expected, expected]
    assert not out.exists()


def test_a_run_that_chooses_its_mesh_says_which_and_why(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert train.main(arguments(text, out, "--steps", "2", fields=("mesh.strategy=auto",))) == 0
    saved = newest_complete(out / "checkpoints").snapshot
    assert saved is not None
    chosen = build_config(overrides=yaml.safe_load(saved.config)).mesh
    assert chosen.strategy not in (None, "auto")
    assert chosen.strategy in capsys.readouterr().out
