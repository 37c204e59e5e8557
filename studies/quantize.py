"""`python -m studies quantize`: what weights in few bits take and lose, on models trained here.

A small model of bytes is trained on the sources of this Python's library by the training command,
once a seed. Its weights are then rounded to each format, and the perplexity on held-out text is
told beside that of the weights as they were.
"""

import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.runner import tell
from benchmarks.training import run_training
from rtdlm.data import PYTHON_LIBRARY, prepare
from rtdlm.evaluation import measure as measure_checkpoint
from rtdlm.evaluation.results import Bar, Result
from rtdlm.interop.quantize import KINDS, nbytes, quantize_params
from rtdlm.models.load import load_model

DESCRIPTION = "bytes and perplexity of int8, int4 and nf4 weights against float32"
SEEDS = 3
STEPS = 300
BATCHES = 24
WHOLE = "float32"
BARS: dict[str, Bar] = {"int8": ("<=", 1.0), "int4": ("<=", 5.0), "nf4": ("<=", 5.0)}
MODEL = ("d_model=128", "num_layers=2", "num_heads=4", "num_kv_heads=2", "d_ff=384",
         "max_seq_len=64", "batch_size=16")  # fmt: skip
SMOKE = ("d_model=64", "num_layers=1", "num_heads=1", "num_kv_heads=1", "d_ff=64",
         "max_seq_len=16", "batch_size=8", "optimizer.warmup_steps=1")  # fmt: skip


class Measured(NamedTuple):
    """One model with its weights in one format."""

    perplexity: float
    """Held out."""
    size: int
    """Of all parameters [bytes]."""


def add_flags(parser: ArgumentParser) -> None:
    """This study takes none of its own."""


def file_name(flags: Namespace) -> str | None:
    """Name of the result file."""
    return None if flags.smoke else "quantize"


def measure(flags: Namespace) -> Iterator[list[Result]]:
    """The results so far, after every seed."""
    seeds = flags.seeds or (1 if flags.smoke else SEEDS)
    found: dict[str, list[Measured]] = {name: [] for name in (WHOLE, *KINDS)}
    with tempfile.TemporaryDirectory(prefix="rtdlm-study-") as directory:
        shards = Path(directory) / "shards"
        text = __file__ if flags.smoke else PYTHON_LIBRARY
        prepare([text], shards, tokenizer="byte", vocab_size=257, held_out_fraction=0.05)
        for seed in range(seeds):
            tell(f"seed {seed}")
            run = Path(directory) / str(seed)
            fields = (*(SMOKE if flags.smoke else MODEL), "evaluation.num_batches=2")
            run_training(shards, run, steps=4 if flags.smoke else STEPS, seed=seed, fields=fields)
            for name, measured in _formats(run):
                found[name].append(measured)
            yield results(found)


def results(found: Mapping[str, list[Measured]]) -> list[Result]:
    """Everything that is told; changes are paired by seed."""
    told = []
    whole = found[WHOLE]
    for name, own in found.items():
        told.append(Result.mean(f"{name}/perplexity", [x.perplexity for x in own], ""))
        told.append(Result.mean(f"{name}/size", [x.size / 1e6 for x in own], "MB"))
        if name != WHOLE:
            pairs = list(zip(own, whole, strict=True))
            share = [x.size / y.size for x, y in pairs]
            change = [100 * (x.perplexity / y.perplexity - 1) for x, y in pairs]
            told.append(Result.mean(f"{name}/of float32's bytes", share, "x"))
            told.append(Result.mean(f"{name}/perplexity change", change, "%", bar=BARS[name]))
    return told


def _formats(run: Path) -> Iterator[tuple[str, Measured]]:
    params = load_model(run, notice=tell).params
    for kind in (None, *KINDS):
        report = measure_checkpoint(run, num_batches=BATCHES, quantize=kind, notice=tell)
        if kind is None:
            size = sum(np.asarray(x).nbytes for leaves in params.values() for x in leaves.values())
        else:
            size = nbytes(quantize_params(params, kind))
        yield kind or WHOLE, Measured(report["held_out"]["perplexity"], size)
