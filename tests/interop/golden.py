"""Logits of every family as `transformers` gives them, so that a machine without it can compare.

    python -m tests.interop.golden        # writes golden.safetensors again; needs torch

No weights are kept: element i of the tensor called `name` is

    h = (i + crc32(name)) * 2654435761 mod 2^32,   h = (h xor h >> 15) * 2246822519 mod 2^32,
    w = 0.8 (h / 2^32 - 1 / 2)                     (1 more for norm scales of all but Gemma)

which is the same float32 everywhere. The file has, for each case, the last `KEPT` positions' logits
of two rows, float32, and in its metadata the config.json and the tensors' shapes.
"""

import json
import zlib
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from rtdlm.config import AGIConfig
from rtdlm.interop.hugging_face import FAMILIES
from rtdlm.interop.slots import import_tensors
from rtdlm.models import TMSModel
from rtdlm.models.tms import Params
from tests.interop.families import CASES, make

FILE = Path(__file__).with_name("golden.safetensors")
LENGTH, KEPT = 24, 4


def ids() -> np.ndarray:
    """`[2, LENGTH]` tokens below 48."""
    return (np.arange(2 * LENGTH, dtype=np.int32).reshape(2, LENGTH) * 29 + 5) % 47


def weight(name: str, shape: tuple[int, ...], *, model_type: str) -> np.ndarray:
    """The tensor by the formula above, float32."""
    place = np.arange(np.prod(shape, dtype=np.int64), dtype=np.uint64)
    mixed = (place + zlib.crc32(name.encode())) * np.uint64(2654435761) % np.uint64(2**32)
    mixed = (mixed ^ (mixed >> np.uint64(15))) * np.uint64(2246822519) % np.uint64(2**32)
    centre = 0.0
    if ("norm" in name or ".ln_" in name) and name.endswith("weight") and model_type != "gemma2":
        centre = 1.0
    return (centre + 0.8 * (mixed / 2**32 - 0.5)).astype(np.float32).reshape(shape)


def read() -> dict[str, tuple[dict[str, Any], dict[str, np.ndarray], np.ndarray]]:
    """Case -> its config.json, tensors and logits `[2, KEPT, V]`."""
    found = {}
    with safe_open(FILE, framework="numpy") as opened:
        for case, text in opened.metadata().items():
            about = json.loads(text)
            kind = about["config"]["model_type"]
            tensors = {
                name: weight(name, tuple(shape), model_type=kind)
                for name, shape in about["shapes"].items()
            }
            found[case] = about["config"], tensors, opened.get_tensor(case)
    return found


def pretrained(case: str) -> tuple[AGIConfig, Params, np.ndarray]:
    """Our configuration and parameters of a case, and its logits."""
    tree, tensors, logits = read()[case]
    family = next(family for family in FAMILIES if family.model_type == tree["model_type"])
    config = AGIConfig().replace(**family.from_foreign(tree), precision={"compute": "float32"})
    return config, import_tensors(family.slots(config), tensors, TMSModel(config).shapes), logits


def compute(case: str) -> tuple[dict[str, Any], dict[str, list[int]], np.ndarray]:
    """What `transformers` says: config.json, shapes of the tensors that it saves, logits."""
    import torch
    import transformers

    with TemporaryDirectory() as folder:
        make(case).save_pretrained(folder)
        config = json.loads((Path(folder) / "config.json").read_text())
        file, kind = Path(folder) / "model.safetensors", config["model_type"]
        shapes = {name: list(tensor.shape) for name, tensor in sorted(load_file(file).items())}
        tensors = {
            name: weight(name, tuple(shape), model_type=kind) for name, shape in shapes.items()
        }
        save_file(tensors, file, {"format": "pt"})
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, attn_implementation="eager"
        )
    with torch.no_grad():
        logits = model(torch.from_numpy(ids().astype(np.int64))).logits.numpy()
    return config, shapes, np.ascontiguousarray(logits[:, -KEPT:])


if __name__ == "__main__":
    arrays, metadata = {}, {}
    for each in CASES:
        tree, sizes, arrays[each] = compute(each)
        metadata[each] = json.dumps({"config": tree, "shapes": sizes}, separators=(",", ":"))
    save_file(arrays, FILE, metadata)
    print(f"{FILE}: {FILE.stat().st_size} bytes")
