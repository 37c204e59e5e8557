"""Finds checkpoints, verifies them and reads them; never writes.

    OUT/checkpoints/step_00000100/    one complete checkpoint, see `snapshot`
    OUT/checkpoints/best              a text file with the name of the best one

Anyone may read while a run writes: a checkpoint appears at once and whole.
"""

import json
import re
import warnings
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rtdlm.checkpoint.group import Alone, Group
from rtdlm.checkpoint.manifest import MANIFEST, DamageError, read_manifest, verify
from rtdlm.checkpoint.snapshot import CONFIG, MODEL, STATE, TOKENIZER, Snapshot, read_snapshot
from rtdlm.checkpoint.tensors import read_parts, read_pieces
from rtdlm.config.errors import UserError
from rtdlm.disk import hash_file

CHECKPOINTS = "checkpoints"
BEST = "best"
EVERYTHING = ("",)
INFERENCE = (MODEL, CONFIG, TOKENIZER)
DESCRIPTION = (CONFIG, TOKENIZER, STATE)

_STEP = re.compile(r"step_(\d{8,})")

Notice = Callable[[str], object]


class NewestComplete(NamedTuple):
    """The newest undamaged snapshot, and what is wrong with newer ones."""

    snapshot: Snapshot | None
    """None when there is no undamaged one."""
    passed_over: Mapping[int, str]
    """Step -> a sentence that names the directory and the damage, newest first."""


class SavedModel(NamedTuple):
    """The part of a checkpoint that inference needs; parameters are memory maps."""

    directory: Path
    step: int
    params: Mapping[str, np.ndarray]
    config: str
    tokenizer: bytes | None


class Description(NamedTuple):
    """What a checkpoint says of itself; its arrays are not looked at yet."""

    directory: Path
    step: int
    config: str
    tokenizer: bytes | None
    state: Mapping[str, Any]
    sha256: str
    """Of its manifest, which vouches for every file."""


def step_name(step: int) -> str:
    """Directory name of the checkpoint after `step` optimizer steps."""
    return f"step_{step:08d}"


def step_directories(checkpoints: Path) -> dict[int, Path]:
    """Step -> directory of every checkpoint in `checkpoints`, damaged ones too, oldest first."""
    if not checkpoints.is_dir():
        return {}
    matches = [(_STEP.fullmatch(path.name), path) for path in checkpoints.iterdir()]
    return dict(sorted((int(match[1]), path) for match, path in matches if match))


def has_checkpoint(run: Path) -> bool:
    """Whether the output directory `run` holds any checkpoint, damaged or not."""
    return bool(step_directories(run / CHECKPOINTS))


def load_checkpoint(directory: Path) -> Snapshot:
    """The snapshot in one step's directory, after verifying all of it.

    Raises:
        UserError: it is damaged or half-written.
    """
    try:
        return read_snapshot(directory, step=verify(directory).step)
    except DamageError as damage:
        raise UserError(_unusable(directory, damage)) from None


def newest_complete(checkpoints: Path, group: Group | None = None) -> NewestComplete:
    """The newest checkpoint that verifies, and why each newer one did not.

    The processes of a `group` read a share of the files each, and agree.
    """
    path, passed_over = _newest(checkpoints, prefixes=EVERYTHING, group=group)
    snapshot = None if path is None else read_snapshot(path, step=read_manifest(path).step)
    return NewestComplete(snapshot, passed_over)


def resolve_checkpoint(
    path: str | Path,
    *,
    notice: Notice = warnings.warn,
    prefixes: Collection[str] = INFERENCE,
) -> Path:
    """The directory of the checkpoint that a person means by `path`, fit for inference.

    Args:
        path: a run's output directory or its `checkpoints` directory (the newest complete one is
            meant), its `best` file, or one step's directory.
        notice: called with one sentence for each damaged checkpoint that was passed over.
        prefixes: what the names of the files begin with whose contents are verified.

    Raises:
        UserError: there is none, or the one named is damaged.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(
            f"checkpoint {path} does not exist; give the --out directory of a run, its "
            f"{CHECKPOINTS} directory or one step in it"
        )
    if path.name == BEST and path.is_file():
        path = path.parent / path.read_text(encoding="utf-8").strip()
    if (path / MANIFEST).exists() or _STEP.fullmatch(path.name):
        return _require_usable(path, prefixes)
    inner = path / CHECKPOINTS
    found, passed_over = _newest(inner if inner.is_dir() else path, prefixes=prefixes)
    if found is None and passed_over:
        raise UserError(f"{path} holds no undamaged checkpoint: {'; '.join(passed_over.values())}")
    if found is None:
        raise UserError(
            f"{path} holds no checkpoint; give the --out directory of a run that has saved one"
        )
    for sentence in passed_over.values():
        notice(sentence)
    return found


def load_model(path: str | Path, *, notice: Notice = warnings.warn) -> SavedModel:
    """Parameters, configuration and tokenizer of the checkpoint that `path` means.

    The optimizer state is not touched. See `resolve_checkpoint` for arguments and errors.
    """
    directory = resolve_checkpoint(path, notice=notice)
    tokenizer = directory / TOKENIZER
    return SavedModel(
        directory=directory,
        step=read_manifest(directory).step,
        params=read_parts(directory, MODEL),
        config=(directory / CONFIG).read_text(encoding="utf-8"),
        tokenizer=tokenizer.read_bytes() if tokenizer.exists() else None,
    )


def describe_checkpoint(path: str | Path, *, notice: Notice = warnings.warn) -> Description:
    """What the checkpoint that `path` means says of itself.

    Its arrays are not verified; `read_params` does that. See `resolve_checkpoint` for arguments and
    errors.
    """
    directory = resolve_checkpoint(path, notice=notice, prefixes=DESCRIPTION)
    tokenizer = directory / TOKENIZER
    return Description(
        directory=directory,
        step=read_manifest(directory).step,
        config=(directory / CONFIG).read_text(encoding="utf-8"),
        tokenizer=tokenizer.read_bytes() if tokenizer.exists() else None,
        state=json.loads((directory / STATE).read_bytes()),
        sha256=hash_file(directory / MANIFEST),
    )


def read_params(directory: Path, *, group: Group | None = None) -> Mapping[str, Any]:
    """Parameters of the checkpoint in `directory` by flat name, after verifying them.

    The processes of a `group` hash a share of the files each. Arrays are read when they are used,
    and of those that several processes wrote only the parts that are.

    Raises:
        UserError: they are damaged.
    """
    problem = _damage(directory, prefixes=(MODEL,), group=group or Alone(), name="params")
    if problem is not None:
        raise UserError(_unusable(directory, problem))
    return read_pieces(directory, MODEL)


def _newest(
    checkpoints: Path, *, prefixes: Collection[str], group: Group | None = None
) -> tuple[Path | None, dict[int, str]]:
    group = group or Alone()
    passed_over: dict[int, str] = {}
    # Another process may see a shared directory otherwise.
    for step in group.follow("checkpoint/steps", list(reversed(step_directories(checkpoints)))):
        path = checkpoints / step_name(step)
        problem = _damage(path, prefixes=prefixes, group=group, name=f"verified/{step}")
        if problem is None:
            return path, passed_over
        passed_over[step] = f"checkpoint {path} is passed over: {problem}"
    return None, passed_over


def _damage(directory: Path, *, prefixes: Collection[str], group: Group, name: str) -> str | None:
    """What is wrong with a checkpoint, if anything; each of a group hashes a share of its files."""
    problem = None
    try:
        verify(directory, prefixes=prefixes, share=slice(group.process, None, group.count))
    except DamageError as damage:
        problem = str(damage)
    found = group.gather(f"checkpoint/{name}", problem)
    return next((text for text in found if text is not None), None)


def _require_usable(directory: Path, prefixes: Collection[str]) -> Path:
    try:
        verify(directory, prefixes=prefixes)
    except DamageError as damage:
        raise UserError(_unusable(directory, damage)) from None
    return directory


def _unusable(directory: Path, damage: DamageError | str) -> str:
    return f"checkpoint {directory} cannot be used: {damage}; choose another step beside it"
