"""A model out of any folder that is known here: a run, Hugging Face's form, or few bits."""

import warnings
from pathlib import Path

import jax

from rtdlm.checkpoint.reading import Notice
from rtdlm.interop.hugging_face import CONFIG_FILE, Pretrained, read_pretrained
from rtdlm.interop.quantized_model import WEIGHTS_FILE, read_quantized_model
from rtdlm.models import TMSModel
from rtdlm.models.load import LoadedModel, load_model


def load_any_model(path: str | Path, *, notice: Notice = warnings.warn) -> LoadedModel:
    """The model in `path`; what was not trained here is at step 0 of no run.

    Args:
        path: a run, its checkpoints or one of them; a folder with Hugging Face's config.json; or
            one that `scripts/quantize_model.py` wrote, whose weights are expanded.
        notice: told of each damaged checkpoint that was passed over.

    Raises:
        UserError: there is no model, it is damaged, or its architecture cannot be expressed.
    """
    folder = Path(path)
    if (folder / CONFIG_FILE).is_file():
        return _loaded(read_pretrained(folder), folder)
    if (folder / WEIGHTS_FILE).is_file():
        return _loaded(read_quantized_model(folder), folder)
    return load_model(folder, notice=notice)


def _loaded(found: Pretrained, folder: Path) -> LoadedModel:
    config, params, tokenizer = found
    return LoadedModel(TMSModel(config), jax.device_put(params), tokenizer, 0, folder, run=None)
