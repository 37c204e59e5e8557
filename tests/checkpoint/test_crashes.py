"""kill -9 at any moment of a save leaves a newest checkpoint that is exactly what was saved."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from rtdlm.checkpoint import newest_complete
from tests.checkpoint.runs import digest, snapshot_at

ROOT = Path(__file__).resolve().parents[2]


def test_death_before_any_operation_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.checkpoint.crashes", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 50


def run_until_killed(root: Path, *, saves: int, seconds: float) -> tuple[int, int]:
    """Kills a writer `seconds` after its save number `saves`: steps it resumed from and told of."""
    command = [sys.executable, "-m", "tests.checkpoint.writer", str(root)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(1 + saves)]
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        lines += process.stdout
    assert process.returncode == -signal.SIGKILL
    return int(lines[0].removeprefix("resumed ")), int(lines[-1].split()[1])


def test_twenty_kills_at_random_moments(tmp_path: Path) -> None:
    moments = random.Random(0)
    announced = 0
    for _ in range(20):
        saves = moments.randrange(4)
        resumed, now_announced = run_until_killed(
            tmp_path, saves=saves, seconds=moments.uniform(0.0, 0.05)
        )
        assert announced <= resumed <= resumed + max(saves - 1, 0) <= now_announced
        announced = now_announced
        found = newest_complete(tmp_path / "checkpoints")
        assert found.passed_over == {}
        if found.snapshot:
            assert digest(found.snapshot) == digest(snapshot_at(found.snapshot.step))
    assert announced > 10
