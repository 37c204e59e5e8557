"""A model with its weights in few bits, as a folder: configuration, codes and tokenizer.

    config.yaml   quantized.safetensors   tokenizer.json and what goes with it

Generation reads it like a checkpoint. The weights are expanded on the way in: what is small is the
folder, not the memory that the model takes.
"""

from pathlib import Path
from typing import Any

from rtdlm.checkpoint.tree import unflatten_like
from rtdlm.config import AGIConfig, UserError, to_yaml
from rtdlm.config.build import read_yaml
from rtdlm.data import Tokenizer
from rtdlm.disk import make_directory, replace_file
from rtdlm.interop.hugging_face import Pretrained
from rtdlm.interop.quantize import Quantized, dequantize, read_quantized, write_quantized
from rtdlm.interop.roles import load_tokenizer, save_tokenizer
from rtdlm.models import TMSModel

CONFIG_FILE, WEIGHTS_FILE = "config.yaml", "quantized.safetensors"


def write_quantized_model(
    path: str | Path,
    config: AGIConfig,
    weights: dict[str, Any],
    *,
    tokenizer: Tokenizer | None = None,
) -> None:
    """Writes the folder; `weights` are as `quantize_params` gives them.

    Raises:
        UserError: the folder has something in it.
        StorageError: the disk refused.
    """
    folder = Path(path)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there already; name a new or an empty folder")
    make_directory(folder)
    replace_file(folder / CONFIG_FILE, to_yaml(config).encode())
    if tokenizer is not None:
        save_tokenizer(tokenizer, folder)
    write_quantized(folder / WEIGHTS_FILE, weights)


def read_quantized_model(path: str | Path) -> Pretrained:
    """What `write_quantized_model` wrote, with its weights expanded.

    Raises:
        UserError: it is not such a folder, or its arrays do not fit its configuration.
    """
    folder = Path(path)
    config = AGIConfig.from_dict(read_yaml(folder / CONFIG_FILE))
    weights = read_quantized(folder / WEIGHTS_FILE)
    arrays = {
        name: dequantize(item) if isinstance(item, Quantized) else item
        for name, item in weights.items()
    }
    params = unflatten_like(TMSModel(config).shapes, arrays)
    return Pretrained(config, params, load_tokenizer(folder, {}))
