"""The training command as benchmarks and studies run it: a process of its own on prepared text."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import ROOT
from rtdlm.config.errors import UserError


def run_training(shards: Path, out: Path, *, steps: int, seed: int, fields: Sequence[str]) -> None:
    """Runs `python -m rtdlm.train` with the `tiny` preset and `fields` on top.

    Raises:
        UserError: it failed; the message ends with what it said.
    """
    command = [
        sys.executable, "-m", "rtdlm.train", "--preset", "tiny", "--data-dir", str(shards),
        "--steps", str(steps), "--seed", str(seed), "--out", str(out),
        "--set", "monitoring.sample_tokens=0", *fields,
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"the run {out.name} failed: {done.stderr.strip()[-500:]}")
