"""A model out of a checkpoint: config, parameters and tokenizer, which is all that it takes."""

import warnings
from pathlib import Path
from typing import NamedTuple

import jax
import yaml

from rtdlm.checkpoint import load_model as read_model
from rtdlm.checkpoint.reading import Notice
from rtdlm.checkpoint.tree import unflatten_like
from rtdlm.config import AGIConfig
from rtdlm.data import TOKENIZER_FILE, Tokenizer
from rtdlm.models.tms import Params, TMSModel


class LoadedModel(NamedTuple):
    """A trained model, ready to use."""

    model: TMSModel
    params: Params
    tokenizer: Tokenizer | None
    """None when the run was trained on shards that brought none."""
    step: int
    directory: Path
    """The checkpoint that was read."""
    run: Path | None
    """The output directory of its run; None for what was not trained here."""


def load_model(path: str | Path, *, notice: Notice = warnings.warn) -> LoadedModel:
    """The model in `path`: a run (its newest complete checkpoint) or one checkpoint.

    `notice` is told of each damaged checkpoint that was passed over, as one sentence.

    Raises:
        UserError: there is no complete checkpoint, or it is damaged.
    """
    saved = read_model(path, notice=notice)
    config = AGIConfig.from_dict(yaml.safe_load(saved.config))
    model = TMSModel(config)
    params = jax.device_put(unflatten_like(model.shapes, saved.params))
    tokenizer = None
    if saved.tokenizer is not None:
        name = str(saved.directory / TOKENIZER_FILE)
        tokenizer = Tokenizer(saved.tokenizer, name=name)
    run = saved.directory.parent.parent  # above the run's checkpoints
    return LoadedModel(model, params, tokenizer, saved.step, saved.directory, run)
