"""A model as a folder for others: Hugging Face's, ONNX's or llama.cpp's."""

import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rtdlm.checkpoint.reading import Notice
from rtdlm.config import UserError
from rtdlm.disk import make_directory, replace_file
from rtdlm.interop.family import Family
from rtdlm.interop.hugging_face import (
    CONFIG_FILE,
    foreign_config,
    stored_dtype,
    write_pretrained,
)
from rtdlm.interop.load import load_any_model
from rtdlm.interop.roles import save_tokenizer
from rtdlm.models.load import LoadedModel

ONNX_FILE, GGUF_FILE = "model.onnx", "model.gguf"
ONNX_LIMIT = 2**31
"""A file of ONNX's format ends here [bytes]."""


class Exported(NamedTuple):
    """What was written."""

    family: Family
    """The Hugging Face family that the model is one of."""
    dtype: str
    """Format of the weights."""


def export_checkpoint(
    checkpoint: str | Path,
    out: str | Path,
    *,
    form: str = "hf",
    dtype: str | None = None,
    notice: Notice = warnings.warn,
) -> Exported:
    """Writes the model in `checkpoint`, and its tokenizer, to the folder `out`.

    Args:
        checkpoint: what `load_any_model` reads.
        out: a folder that is new or empty.
        form: `hf`, `onnx` or `gguf`.
        dtype: format of the weights; None is float32, but that of a Hugging Face folder whose
            weights have all the same, for `hf` and `gguf`.
        notice: told of damaged checkpoints that were passed over.

    Raises:
        UserError: there is no complete checkpoint, no family can express its model, the folder has
            something in it, a weight does not fit the format, or a library is not installed.
        StorageError: the disk refused.
    """
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there already; name a new or an empty folder")
    loaded = load_any_model(checkpoint, notice=notice)
    if dtype is None:
        foreign = form != "onnx" and (Path(checkpoint) / CONFIG_FILE).is_file()
        dtype = stored_dtype(checkpoint) if foreign else "float32"
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
    return Exported(FORMS[form](folder, loaded, dtype), dtype)


def _write_hf(folder: Path, loaded: LoadedModel, dtype: str) -> Family:
    return write_pretrained(
        folder, loaded.model.config, loaded.params, tokenizer=loaded.tokenizer, dtype=dtype
    )


def _write_onnx(folder: Path, loaded: LoadedModel, dtype: str) -> Family:
    _require_library("onnx")
    if dtype != "float32":
        raise UserError(f"dtype={dtype} has no effect with ONNX, whose graph is float32; remove it")
    from rtdlm.interop.onnx_graph import onnx_model

    config = loaded.model.config
    family, _ = foreign_config(config)
    size = sum(leaf.nbytes for leaves in loaded.params.values() for leaf in leaves.values())
    if size >= ONNX_LIMIT:
        raise UserError(f"a model of {size:,} bytes does not fit an ONNX file; export with --to hf")
    model = onnx_model(config, loaded.params)
    make_directory(folder)
    replace_file(folder / ONNX_FILE, model.SerializeToString())
    if loaded.tokenizer is not None:
        save_tokenizer(loaded.tokenizer, folder)
    return family


def _write_gguf(folder: Path, loaded: LoadedModel, dtype: str) -> Family:
    _require_library("gguf")
    if loaded.tokenizer is None:
        raise UserError("a GGUF file holds a tokenizer and the checkpoint has none; use --to hf")
    from rtdlm.interop.gguf_file import write_gguf

    return write_gguf(
        folder / GGUF_FILE,
        loaded.model.config,
        loaded.params,
        tokenizer=loaded.tokenizer,
        dtype=dtype,
    )


def _require_library(name: str) -> None:
    if find_spec(name) is None:
        raise UserError(
            f"the package {name}, which writes this form, is not installed; install it with "
            "`pip install 'rtdlm[export]'`"
        )


FORMS: dict[str, Callable[[Path, LoadedModel, str], Family]] = {
    "hf": _write_hf,
    "onnx": _write_onnx,
    "gguf": _write_gguf,
}
"""What `form` may be."""
