"""The trained model that a new run starts from: `python -m rtdlm.train --from FOLDER`.

    source = find_source(folder, out=out, resume=resume)    # config and tokenizer; asks no device
    params, origin = source.read(model, peers)              # weights, verified, on no device yet

The run is a new one: step 0, fresh moments, schedule and data. What it started from is its
*origin*, which every checkpoint of it carries in state.json:

    {"folder": "runs/mine", "step": 500, "sha256": "9f...", "origin": {...}}

`step` is null for a folder of Hugging Face's form, and the inner `origin` is that of the model
there. A session that resumes takes all this from the run's own checkpoint and needs the folder no
more.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from rtdlm.checkpoint import (
    Description,
    Group,
    describe_checkpoint,
    has_checkpoint,
    read_params,
)
from rtdlm.checkpoint.reading import Notice
from rtdlm.checkpoint.tree import unflatten_like
from rtdlm.config import AGIConfig, UserError
from rtdlm.config.inherit import model_part
from rtdlm.data import TOKENIZER_FILE, Tokenizer
from rtdlm.interop import describe_pretrained, hash_pretrained, read_pretrained
from rtdlm.interop.hugging_face import CONFIG_FILE
from rtdlm.interop.quantized_model import WEIGHTS_FILE as FEW_BITS_FILE
from rtdlm.models import TMSModel

Origin = Mapping[str, Any]


class Source(NamedTuple):
    """A model to start from, before its weights are looked at."""

    folder: Path
    """As the user named it."""
    config: AGIConfig
    """The model's part, see `rtdlm.config.inherit`."""
    tokenizer: Tokenizer | None
    checkpoint: Description | None
    """None for a folder of Hugging Face's form."""
    origin: Origin | None = None
    """Of a run that goes on from its own checkpoint, which `checkpoint` then is; None for a new
    run."""

    def read(self, model: TMSModel, group: Group) -> tuple[Any, Origin]:
        """Parameters shaped as `model.shapes`, as host arrays that are read when they are used, and
        the origin of a run that starts from them.

        Raises:
            UserError: they are damaged, or do not fit `model`.
        """
        if self.checkpoint is None:
            params = read_pretrained(self.folder).params
            return params, self._origin(None, hash_pretrained(self.folder), None)
        found = self.checkpoint
        # A run that goes on may have saved again before another process looked.
        directory, step, sha256 = group.follow(
            "source", [str(found.directory), found.step, found.sha256]
        )
        params = unflatten_like(model.shapes, read_params(Path(directory), group=group))
        return params, self._origin(step, sha256, found.state.get("origin"))

    def _origin(self, step: int | None, sha256: str, origin: Origin | None) -> Origin:
        return {"folder": str(self.folder), "step": step, "sha256": sha256, "origin": origin}


def find_source(folder: Path, *, out: Path, resume: bool, notice: Notice = warnings.warn) -> Source:
    """The model in `folder`, or in `out` where a run that started from it goes on.

    Args:
        folder: a run, its checkpoints or one of them, or a folder of Hugging Face's form.
        out: output directory of the run.
        resume: go on from the newest complete checkpoint in `out`, if there is one.
        notice: told of each damaged checkpoint of `folder` that was passed over.

    Raises:
        UserError: there is no model that a run can start from, or the run in `out` did not.
    """
    if resume and has_checkpoint(out):
        return _own(folder, out)
    if (folder / CONFIG_FILE).is_file():
        config, tokenizer = describe_pretrained(folder)
        base = model_part(config, tokenizer=folder / TOKENIZER_FILE)
        return Source(folder, base, tokenizer, None)
    if (folder / FEW_BITS_FILE).is_file():
        raise UserError(
            f"{folder} holds weights in few bits, from which no run can start; name the checkpoint "
            "that it was made of"
        )
    if not folder.exists():
        raise UserError(
            f"--from {folder} does not exist; name a run, one of its checkpoints or the folder of "
            "a Hugging Face model"
        )
    found = describe_checkpoint(folder, notice=notice)
    base = model_part(_config(found), tokenizer=found.directory / TOKENIZER_FILE)
    return Source(folder, base, _tokenizer(found), found)


def told(origin: Origin) -> str:
    """An origin in a few words."""
    return origin["folder"] + ("" if origin["step"] is None else f" at step {origin['step']}")


def _own(folder: Path, out: Path) -> Source:
    # The start of the loop tells of damaged ones.
    found = describe_checkpoint(out, notice=lambda _: None)
    origin = found.state.get("origin")
    if origin is None:
        raise UserError(
            f"the run in {out} did not start from another model, so that --from {folder} has no "
            "effect; remove it, or choose another --out"
        )
    if origin["folder"] != str(folder):
        raise UserError(
            f"the run in {out} started from {origin['folder']}, not from {folder}; name that to go "
            "on with it, or choose another --out"
        )
    config = _config(found)
    base = model_part(config, tokenizer=config.data.tokenizer)
    return Source(folder, base, _tokenizer(found), found, origin)


def _config(found: Description) -> AGIConfig:
    return AGIConfig.from_dict(yaml.safe_load(found.config))


def _tokenizer(found: Description) -> Tokenizer | None:
    if found.tokenizer is None:
        return None
    return Tokenizer(found.tokenizer, name=str(found.directory / TOKENIZER_FILE))
