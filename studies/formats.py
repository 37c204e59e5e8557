"""`python -m studies formats`: whole runs of the `tiny` preset in float32 and in bfloat16.

The training command itself, on the sources of this Python's library, once a seed and format, in
turns; told are the held-out loss at the end, the whole command's CPU time, and how fast its steps
were.
"""

import os
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks.runner import ratios, tell
from benchmarks.training import run_training
from rtdlm.data import PYTHON_LIBRARY, prepare
from rtdlm.evaluation.results import Result
from rtdlm.monitoring.history import History
from rtdlm.monitoring.jsonl import FILE_NAME

DESCRIPTION = "final loss and speed of the tiny preset in bfloat16 against float32"
SEEDS = 3
STEPS = 100
FORMATS = ("float32", "bfloat16")
VOCABULARY = 8192
WARM = 5
"""First steps whose speed does not count: the first one compiles."""
SMOKE = ("max_seq_len=16", "d_model=16", "num_layers=1", "num_heads=1", "num_kv_heads=1",
         "d_ff=16", "optimizer.warmup_steps=1")  # fmt: skip


class Ran(NamedTuple):
    """One run of the command."""

    loss: float
    """Held out, at the end [nats a token]."""
    step: float
    """Median wall time of a step, without evaluation [seconds]."""
    cpu: float
    """Of the whole process [seconds]."""
    wall: float


def add_flags(parser: ArgumentParser) -> None:
    """This study takes none of its own."""


def file_name(flags: Namespace) -> str | None:
    """Name of the result file."""
    return None if flags.smoke else "formats"


def measure(flags: Namespace) -> Iterator[list[Result]]:
    """The results so far, after every seed."""
    seeds = flags.seeds or (1 if flags.smoke else SEEDS)
    ran: dict[str, list[Ran]] = {name: [] for name in FORMATS}
    with tempfile.TemporaryDirectory(prefix="rtdlm-study-") as directory:
        shards = Path(directory) / "shards"
        kind, text = ("byte", __file__) if flags.smoke else ("bpe", PYTHON_LIBRARY)
        prepare([text], shards, tokenizer=kind, vocab_size=VOCABULARY, held_out_fraction=0.05)
        for seed in range(seeds):
            for name in FORMATS:
                tell(f"{name}, seed {seed}")
                out = Path(directory) / f"{name}-{seed}"
                ran[name].append(_run(name, seed, shards, out, smoke=flags.smoke))
            yield results(ran)


def results(ran: dict[str, list[Ran]]) -> list[Result]:
    """Everything that is told of both formats."""
    found = []
    for name, runs in ran.items():
        found += [
            Result.mean(f"{name}/loss", [run.loss for run in runs], "nats"),
            Result.median(f"{name}/step", [1e3 * run.step for run in runs], "ms"),
            Result.median(f"{name}/CPU of the command", [run.cpu for run in runs], "s"),
            Result.median(f"{name}/wall of the command", [run.wall for run in runs], "s"),
        ]
    full, low = (ran[name] for name in FORMATS)
    apart = [100 * abs(b.loss / a.loss - 1) for a, b in zip(full, low, strict=True)]
    faster = ratios([run.step for run in full], [run.step for run in low])
    return [
        *found,
        Result.mean("bfloat16 beside float32/final loss apart", apart, "%", bar=("<=", 1.0)),
        Result.median("bfloat16 beside float32/step faster", faster, "x", bar=(">=", 1.3)),
    ]


def _run(name: str, seed: int, shards: Path, out: Path, *, smoke: bool) -> Ran:
    """Runs the command; raises UserError with what it said if it fails."""
    fields = (f"precision.compute={name}", "evaluation.num_batches=24", *(SMOKE if smoke else ()))
    begun, before = time.perf_counter(), os.times()
    run_training(shards, out, steps=4 if smoke else STEPS, seed=seed, fields=fields)
    wall, after = time.perf_counter() - begun, os.times()
    history = History.read(out / FILE_NAME)
    seconds = [event.seconds for event in history.steps]
    each = [b - a for a, b in pairwise(seconds)]
    cpu = after.children_user - before.children_user
    cpu += after.children_system - before.children_system
    loss = history.evals[-1].metrics["loss"]
    return Ran(loss, median(each[min(WARM, len(each) - 1) :]), cpu, wall)
