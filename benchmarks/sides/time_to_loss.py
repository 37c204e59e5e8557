"""Runs one side of the time-to-loss benchmark and tells what its clock said."""

import importlib
from pathlib import Path

from benchmarks.child import Answer, Spec, since_spawned
from benchmarks.timing import Side


def measure(spec: Spec) -> Answer:
    """Spec: `side` ("module:function"), `text`, `seed`, `target`, `options`.

    Answer: the fields of `Timing`, and `prompt_wall_seconds` from the shell prompt to the target,
    without evaluation.
    """
    module, _, function = spec["side"].partition(":")
    if module.startswith("benchmarks.peer"):
        import torch

        torch.set_num_threads(spec["threads"])
    side: Side = getattr(importlib.import_module(module), function)
    timing = side(Path(spec["text"]), seed=spec["seed"], target=spec["target"], **spec["options"])
    prompt = since_spawned(spec) - timing.evaluation_wall_seconds
    return {**timing._asdict(), "prompt_wall_seconds": prompt}
