"""One moment of a run as a directory of files.

model.safetensors        parameters; in parts with model.safetensors.index.json when large
optimizer.safetensors    every other array of the training state, likewise
state.json               counters, data position, knobs: whatever JSON the caller gives
config.yaml              the resolved configuration
tokenizer.json           a copy of the tokenizer, if the run has one
manifest.json COMMITTED  see `manifest`
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rtdlm.checkpoint.manifest import Manifest, commit
from rtdlm.checkpoint.tensors import read_parts, write_parts
from rtdlm.disk import sync_directory, write_file

MODEL = "model"
OPTIMIZER = "optimizer"
STATE = "state.json"
CONFIG = "config.yaml"
TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class Snapshot:
    """What a run needs to go on, on the host. Flat names are those of `tree.flatten_tree`."""

    step: int
    """Optimizer steps done [steps]."""
    params: Mapping[str, np.ndarray]
    """Model parameters by flat name."""
    optimizer: Mapping[str, np.ndarray]
    """All other arrays of the training state by flat name."""
    state: Mapping[str, Any]
    """Plain JSON values; floats come back bitwise."""
    config: str
    """The resolved configuration as YAML."""
    tokenizer: bytes | None = None
    """Contents of tokenizer.json; None when the tokenizer needs no file."""

    @property
    def nbytes(self) -> int:
        """Size of the arrays [bytes]."""
        return sum(
            array.nbytes for part in (self.params, self.optimizer) for array in part.values()
        )


def write_snapshot(snapshot: Snapshot, directory: Path, *, part_bytes: int, best: bool) -> None:
    """Fills the new `directory`, marker last, and waits until all of it is on the disk.

    Raises:
        OSError: the disk refused; `directory` may then hold a part.
    """
    directory.mkdir()
    files = write_parts(directory, MODEL, snapshot.params, part_bytes=part_bytes)
    files |= write_parts(directory, OPTIMIZER, snapshot.optimizer, part_bytes=part_bytes)
    texts = {STATE: json.dumps(snapshot.state, indent=1).encode(), CONFIG: snapshot.config.encode()}
    if snapshot.tokenizer is not None:
        texts[TOKENIZER] = snapshot.tokenizer
    files |= {name: write_file(directory / name, text) for name, text in texts.items()}
    commit(directory, Manifest(snapshot.step, best, files))
    sync_directory(directory)


def read_snapshot(directory: Path, *, step: int) -> Snapshot:
    """The snapshot in a verified `directory`; arrays are memory maps, read when used."""
    tokenizer = directory / TOKENIZER
    return Snapshot(
        step=step,
        params=read_parts(directory, MODEL),
        optimizer=read_parts(directory, OPTIMIZER),
        state=json.loads((directory / STATE).read_bytes()),
        config=(directory / CONFIG).read_text(encoding="utf-8"),
        tokenizer=tokenizer.read_bytes() if tokenizer.exists() else None,
    )
