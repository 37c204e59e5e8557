"""One moment of a run as a directory of files.

model.safetensors        parameters; in parts with model.safetensors.index.json when large
optimizer.safetensors    every other array of the training state, likewise
model.p00000.safetensors and so on, in place of these two, where several processes wrote: what
                         each of them holds, see `pieces`
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
from rtdlm.checkpoint.tensors import process_stem, read_pieces, write_parts
from rtdlm.disk import FileRecord, sync_directory, write_file

MODEL = "model"
OPTIMIZER = "optimizer"
STATE = "state.json"
CONFIG = "config.yaml"
TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class Snapshot:
    """What a run needs to go on, on the host. Flat names are those of `tree`."""

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
    files = write_files(snapshot, directory, part_bytes=part_bytes, process=None)
    complete(directory, step=snapshot.step, best=best, files=files)


def write_files(
    snapshot: Snapshot, directory: Path, *, part_bytes: int, process: int | None
) -> dict[str, FileRecord]:
    """The files of one of several processes, or (None) all of them; still without a marker.

    Returns:
        Name -> record.

    Raises:
        OSError: the disk refused.
    """

    def stem(name: str) -> str:
        return name if process is None else process_stem(name, process)

    files = write_parts(directory, stem(MODEL), snapshot.params, part_bytes=part_bytes)
    files |= write_parts(directory, stem(OPTIMIZER), snapshot.optimizer, part_bytes=part_bytes)
    texts: dict[str, bytes] = {}
    if not process:  # what all have alike is the first one's to write
        texts[STATE] = json.dumps(snapshot.state, indent=1).encode()
        texts[CONFIG] = snapshot.config.encode()
        if snapshot.tokenizer is not None:
            texts[TOKENIZER] = snapshot.tokenizer
    files |= {name: write_file(directory / name, text) for name, text in texts.items()}
    sync_directory(directory)
    return files


def complete(directory: Path, *, step: int, best: bool, files: Mapping[str, FileRecord]) -> None:
    """Writes the manifest of all processes' `files` and the marker."""
    commit(directory, Manifest(step, best, files))
    sync_directory(directory)


def read_snapshot(directory: Path, *, step: int) -> Snapshot:
    """The snapshot in a verified `directory`; arrays are read when they are used, and of those
    that several processes wrote only the parts that are.
    """
    tokenizer = directory / TOKENIZER
    return Snapshot(
        step=step,
        params=read_pieces(directory, MODEL),
        optimizer=read_pieces(directory, OPTIMIZER),
        state=json.loads((directory / STATE).read_bytes()),
        config=(directory / CONFIG).read_text(encoding="utf-8"),
        tokenizer=tokenizer.read_bytes() if tokenizer.exists() else None,
    )
