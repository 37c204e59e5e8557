"""A checkpoint of ours as a folder for others."""

import warnings
from pathlib import Path

import numpy as np

from rtdlm.checkpoint.reading import Notice
from rtdlm.config import UserError
from rtdlm.interop.family import Family
from rtdlm.interop.hugging_face import write_pretrained
from rtdlm.models.load import load_model


def export_checkpoint(
    checkpoint: str | Path,
    out: str | Path,
    *,
    dtype: str = "float32",
    notice: Notice = warnings.warn,
) -> Family:
    """Writes the model in `checkpoint`, and its tokenizer, to the folder `out`.

    Returns:
        The Hugging Face family that it is.

    Raises:
        UserError: there is no complete checkpoint, no family can express its model, the folder has
            something in it, or a weight does not fit the format.
        StorageError: the disk refused.
    """
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there already; name a new or an empty folder")
    loaded = load_model(checkpoint, notice=notice)
    if dtype == "float16":
        limit = float(np.finfo(np.float16).max)
        largest = max(
            float(np.abs(np.asarray(leaf)).max())
            for leaves in loaded.params.values()
            for leaf in leaves.values()
        )
        if largest > limit:
            raise UserError(
                f"a weight of size {largest:.3g} does not fit float16, which ends at {limit:g}; "
                "use bfloat16"
            )
    return write_pretrained(
        folder, loaded.model.config, loaded.params, tokenizer=loaded.tokenizer, dtype=dtype
    )
