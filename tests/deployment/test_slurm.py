"""The Slurm script, with an `srun` and a `scontrol` that only note what they were asked."""

import re
import subprocess
from pathlib import Path

import pytest

from rtdlm.config.command_line import FAILURE, UNFINISHED, USER_MISTAKE
from tests.deployment.conftest import ROOT

SCRIPT = ROOT / "scripts" / "train.slurm"
JOB = "4711"


@pytest.fixture
def slurm(tmp_path: Path) -> Path:
    """A directory of stand-ins: srun ends with status $STATUS, scontrol with $REFUSED."""
    for name, status in (("srun", "STATUS"), ("scontrol", "REFUSED")):
        program = tmp_path / name
        program.write_text(
            f'#!/bin/sh\nprintf "%s\\n" {name} "$@" >> "{tmp_path}/calls"\n'
            f'exit "${{{status}:-0}}"\n'
        )
        program.chmod(0o755)
    return tmp_path


def submit(slurm: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    base = {"PATH": f"{slurm}:/usr/bin:/bin", "SLURM_JOB_ID": JOB}
    return subprocess.run(
        ["bash", str(SCRIPT), *arguments], env=base | environment, capture_output=True, text=True
    )


def calls(slurm: Path) -> list[str]:
    return (slurm / "calls").read_text().splitlines()


def test_every_start_is_the_same_command_on_all_nodes(slurm: Path) -> None:
    submit(slurm, "--config", "a b.yaml", "--out", "/shared/run", PYTHON="/opt/python")
    expected = ["/opt/python", "-m", "rtdlm.train", "--config", "a b.yaml", "--out", "/shared/run"]
    found = calls(slurm)
    start = found.index("/opt/python")
    assert found[start:] == [*expected, "--resume"]
    assert found[:start] == ["srun", "--kill-on-bad-exit=0", "--wait=0", "--cpu-bind=none"]


@pytest.mark.parametrize(
    ("status", "restarts", "again"),
    [
        (0, 0, False),
        (USER_MISTAKE, 0, False),
        (UNFINISHED, 0, True),
        (UNFINISHED, 1000, True),
        (FAILURE, 0, True),
        (137, 9, True),
        (137, 10, False),
    ],
)
def test_a_run_goes_back_in_the_queue_where_that_helps(
    slurm: Path, status: int, restarts: int, again: bool
) -> None:
    result = submit(slurm, STATUS=str(status), SLURM_RESTART_COUNT=str(restarts))
    assert result.returncode == status
    assert (calls(slurm)[-3:] == ["scontrol", "requeue", JOB]) is again
    assert ("scontrol" in calls(slurm)) is again


def test_a_slurm_that_does_not_requeue_is_told_to_the_person(slurm: Path) -> None:
    result = submit(slurm, STATUS=str(UNFINISHED), REFUSED="1")
    assert "the same sbatch goes on with it" in result.stderr
    assert result.returncode == UNFINISHED


def test_slurm_is_asked_for_one_process_a_host_and_time_to_save() -> None:
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(.*))?$", SCRIPT.read_text(), re.MULTILINE))
    assert options["ntasks-per-node"] == "1"
    # To the processes, not to the script (which "B:" would mean).
    assert re.fullmatch(r"TERM@\d{3,}", options["signal"])
    assert {"requeue", "open-mode"} <= set(options)
