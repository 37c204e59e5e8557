"""A `Generator` out of a checkpoint."""

import warnings
from pathlib import Path

from rtdlm.checkpoint.reading import Notice
from rtdlm.config.errors import UserError
from rtdlm.inference.generate import Generator
from rtdlm.models.load import load_model
from rtdlm.parallel import keep_compiled_programs


def load_generator(path: str | Path, *, notice: Notice = warnings.warn) -> Generator:
    """The generator of the checkpoint that `path` means: a run, its checkpoints or one of them.

    Raises:
        UserError: there is no complete checkpoint, its arrays do not fit its configuration, or it
            brings no tokenizer.
    """
    trouble = keep_compiled_programs()
    if trouble is not None:
        notice(trouble)
    loaded = load_model(path, notice=notice)
    if loaded.tokenizer is None:
        raise UserError(
            f"checkpoint {loaded.directory} brings no tokenizer, so it can neither read nor write "
            "text; train on shards with a tokenizer.json beside them"
        )
    return Generator(loaded.model, loaded.params, loaded.tokenizer)
