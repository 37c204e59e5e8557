"""`python -m benchmarks start`: from the shell prompt to the first finished step.

The commands are those that a person types, on the same prepared tokens; the first of each round
finds empty compilation caches, the second finds what the first left. A step has finished when the
command says so on its output.
"""

import json
import os
import re
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors.numpy import load_file

from benchmarks import ROOT
from benchmarks.peer.shape import Shape
from benchmarks.runner import Plan, has_compiler, ratios, require_torch, scratch, tell
from benchmarks.shapes import SMOKE, TINY
from benchmarks.text import add_text_flag
from rtdlm.data import prepare
from rtdlm.evaluation.results import Bar, Result

DESCRIPTION = "seconds from the shell prompt to the first finished step, cold and warm"
REPEATS = 3
OURS, EAGER, COMPILED = "ours", "torch eager", "torch compiled"
_FIRST = re.compile(rb"^step 1\b")


class Start(NamedTuple):
    """Wall time from the prompt [seconds]."""

    first_step: float
    end: float


def add_flags(parser: ArgumentParser) -> None:
    """Adds what only this benchmark takes."""
    add_text_flag(parser)


def measure(plan: Plan, flags: Namespace) -> list[Result]:
    """The results of all sides, cold and warm."""
    require_torch()
    with scratch() as directory:
        work = Path(directory)
        commands = _prepare(work, flags.text, smoke=plan.smoke)
        found: dict[str, list[tuple[Start, Start]]] = {name: [] for name in commands}
        for turn in range(plan.repeats):
            for name, command in commands.items():
                tell(f"{name} ({turn + 1}/{plan.repeats})")
                cache = work / f"cache-{turn}-{len(name)}"
                cold = _start(command, cache, out=cache / "cold")
                found[name].append((cold, _start(command, cache, out=cache / "warm")))
    return [result for name, starts in found.items() for result in _results(name, starts)]


def _results(name: str, starts: Sequence[tuple[Start, Start]]) -> list[Result]:
    cold, warm = [start[0] for start in starts], [start[1] for start in starts]
    results = []
    for kind, found in (("cold", cold), ("warm", warm)):
        first, end = [start.first_step for start in found], [start.end for start in found]
        results.append(Result.median(f"{name}/first step, {kind}", first, "s"))
        results.append(Result.median(f"{name}/end, {kind}", end, "s"))
    share = ratios([start.first_step for start in warm], [start.first_step for start in cold])
    bar: Bar | None = ("<=", 0.4) if name == OURS else None
    return [*results, Result.median(f"{name}/warm over cold", share, "x", bar=bar)]


def _prepare(work: Path, text: Path, *, smoke: bool) -> dict[str, list[str]]:
    """Tokens for both sides in `work`, and the commands that train on them; `{out}` is a place."""
    shards, tokens = work / "shards", work / "tokens.bin"
    kind = "byte" if smoke else "bpe"
    prepare([str(text)], shards, tokenizer=kind, vocab_size=8192, held_out_fraction=0.05, seed=0)
    files = sorted(shards.glob("train-*.safetensors"))
    ids_N = np.concatenate([load_file(file)["input_ids"] for file in files])
    ids_N.astype(np.uint16).tofile(tokens)
    shape = replace(SMOKE if smoke else TINY, vocab_size=int(ids_N.max()) + 1)
    batch = "2" if smoke else "8"
    sizes = _smoke_sizes(shape) if smoke else []
    train = [sys.executable, "-m", "rtdlm.train", "--preset", "tiny", "--data-dir", str(shards)]
    peer = [sys.executable, "-m", "benchmarks.peer.train", "--tokens", str(tokens)]
    peer += ["--shape", json.dumps(asdict(shape)), "--steps", "1", "--batch-size", batch]
    commands = {
        OURS: [*train, "--steps", "1", "--out", "{out}", "--batch-size", batch, *sizes],
        EAGER: peer,
    }
    compiled = not smoke and has_compiler()
    return {**commands, COMPILED: [*peer, "--compile"]} if compiled else commands


def _smoke_sizes(shape: Shape) -> list[str]:
    tree = {"max_seq_len": shape.length, **asdict(shape)}
    names = ("max_seq_len", "d_model", "num_layers", "num_heads", "num_kv_heads", "d_ff")
    return ["--set", *(f"{name}={tree[name]}" for name in names), "monitoring.sample_tokens=0"]


def _start(command: Sequence[str], cache: Path, *, out: Path) -> Start:
    """Runs a command on a cache; raises RuntimeError if it ends before a step."""
    arguments = [part.replace("{out}", str(out)) for part in command]
    begun, first = time.perf_counter(), None
    with subprocess.Popen(
        arguments, cwd=ROOT, env=_environment(cache), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        for line in process.stdout:
            if first is None and _FIRST.match(line):
                first = time.perf_counter() - begun
        said = process.stderr.read().decode()
    if first is None or process.returncode:
        raise RuntimeError(f"{command[2]} ended with status {process.returncode}:\n{said[-2000:]}")
    return Start(first, time.perf_counter() - begun)


def _environment(cache: Path) -> Mapping[str, str]:
    """A person's environment with the caches of both sides in `cache`."""
    inherited = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    return {
        **inherited,
        "PYTHONUNBUFFERED": "1",
        "RTDLM_CACHE_DIR": str(cache / "ours"),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "torch"),
    }
