"""A `Generator` out of a checkpoint, or out of a Hugging Face folder."""

import warnings
from pathlib import Path

import jax

from rtdlm.checkpoint.reading import Notice
from rtdlm.config.errors import UserError
from rtdlm.data import Tokenizer
from rtdlm.inference.generate import Generator
from rtdlm.models import TMSModel
from rtdlm.models.load import load_model
from rtdlm.models.tms import Params
from rtdlm.parallel import keep_compiled_programs


def load_generator(path: str | Path, *, notice: Notice = warnings.warn) -> Generator:
    """The generator of the checkpoint that `path` means: a run, its checkpoints or one of them.

    A folder with a config.json is read as Hugging Face's; see `rtdlm.interop`.

    Raises:
        UserError: there is no complete checkpoint, its arrays do not fit its configuration, or it
            brings no tokenizer.
    """
    trouble = keep_compiled_programs()
    if trouble is not None:
        notice(trouble)
    if (Path(path) / "config.json").is_file():
        from rtdlm.interop import read_pretrained  # foreign formats take time to import

        found = read_pretrained(path)
        params = jax.device_put(found.params)
        return _generator(TMSModel(found.config), params, found.tokenizer, Path(path))
    loaded = load_model(path, notice=notice)
    return _generator(loaded.model, loaded.params, loaded.tokenizer, loaded.directory)


def _generator(
    model: TMSModel, params: Params, tokenizer: Tokenizer | None, directory: Path
) -> Generator:
    if tokenizer is None:
        raise UserError(
            f"checkpoint {directory} brings no tokenizer, so it can neither read nor write "
            "text; train on shards with a tokenizer.json beside them"
        )
    return Generator(model, params, tokenizer)
