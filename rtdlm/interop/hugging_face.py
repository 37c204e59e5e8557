"""Checkpoints in Hugging Face's form: a folder with config.json and safetensors.

    config, params = read_pretrained("path/to/model")
    write_pretrained("path/to/copy", config, params)

Families are Llama (2 and 3.x), Mistral, Mixtral, Qwen2, Qwen3, Gemma 2 and GPT-2. Numbers are
moved, never changed: importing a checkpoint and exporting it in the one format in which it was
stored gives the same bytes in every tensor.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from rtdlm.config import AGIConfig, UserError
from rtdlm.data import Tokenizer
from rtdlm.disk import hash_bytes, hash_file, make_directory, replace_file
from rtdlm.interop.family import Family
from rtdlm.interop.gpt2 import GPT2
from rtdlm.interop.llama import LLAMA_LIKE
from rtdlm.interop.roles import load_tokenizer, role_ids, save_tokenizer
from rtdlm.interop.slots import Arrays, export_tensors, import_tensors
from rtdlm.models import TMSModel
from rtdlm.models.tms import Params

FAMILIES: tuple[Family, ...] = (*LLAMA_LIKE, GPT2())
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
NO_PARAMETERS = (".attn.bias", ".attn.masked_bias", "rotary_emb.inv_freq")
"""Ends of the names of what some versions store beside the weights."""
FORMATS: dict[str, Any] = {
    "float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16,
}  # fmt: skip


class Pretrained(NamedTuple):
    """A model from elsewhere."""

    config: AGIConfig
    params: Params
    """Float32 NumPy arrays."""
    tokenizer: Tokenizer | None
    """None if the folder has no tokenizer.json."""


def read_pretrained(path: str | Path) -> Pretrained:
    """The model in the folder `path`.

    Raises:
        UserError: it is not such a folder, is damaged, or its architecture cannot be expressed.
    """
    folder = Path(path).expanduser()
    family, config, tokenizer = _describe(folder)
    tensors = _named(_read_tensors(folder), config)
    params = import_tensors(family.slots(config), tensors, TMSModel(config).shapes)
    return Pretrained(config, params, tokenizer)


def describe_pretrained(path: str | Path) -> tuple[AGIConfig, Tokenizer | None]:
    """Config and tokenizer of `read_pretrained`, which raises the same, without any weights."""
    _, config, tokenizer = _describe(Path(path).expanduser())
    return config, tokenizer


def hash_pretrained(path: str | Path) -> str:
    """SHA-256 that names the model in a folder that `read_pretrained` reads."""
    folder = Path(path).expanduser()
    files = [folder / CONFIG_FILE, *_weight_files(folder)]
    return hash_bytes("".join(f"{file.name} {hash_file(file)}\n" for file in files).encode())


def stored_dtype(path: str | Path) -> str:
    """The format of all weights in a folder that `read_pretrained` reads; float32 if they differ.

    Raises:
        UserError: the weights cannot be read.
    """
    kinds = set()
    for file in _weight_files(Path(path).expanduser()):
        with _opened(file) as opened:
            names = opened.keys()
            weights = [name for name in names if not name.endswith(NO_PARAMETERS)]
            kinds |= {opened.get_slice(name).get_dtype() for name in weights}
    known = {"F16": "float16", "BF16": "bfloat16"}
    return known.get(kinds.pop(), "float32") if len(kinds) == 1 else "float32"


def _describe(folder: Path) -> tuple[Family, AGIConfig, Tokenizer | None]:
    tree = _read_json(folder / CONFIG_FILE)
    family = _family(tree, folder)
    if tree.get("quantization_config"):
        raise UserError(
            f"{folder} holds weights in few bits (quantization_config), and only weights in "
            "float32, float16 or bfloat16 are imported; name the folder that it was made of"
        )
    try:
        overrides = family.from_foreign(tree)
    except KeyError as missing:
        raise UserError(f"{folder / CONFIG_FILE} has no field {missing}") from None
    except (TypeError, ValueError, ZeroDivisionError, AttributeError) as error:
        raise UserError(
            f"{folder / CONFIG_FILE} has a field that is not what its family has there: {error}"
        ) from None
    return family, AGIConfig().replace(**overrides), load_tokenizer(folder, tree)


def write_pretrained(
    path: str | Path,
    config: AGIConfig,
    params: Params,
    *,
    tokenizer: Tokenizer | None = None,
    dtype: str = "float32",
) -> Family:
    """Writes the model as a folder that `transformers` loads; returns its family.

    Raises:
        UserError: no family can express the model.
        StorageError: the disk refused.
    """
    family, tree = foreign_config(config)
    tensors = export_tensors(family.slots(config), params)
    folder = Path(path)
    make_directory(folder)
    kind = FORMATS[dtype]
    weights = save({name: x.astype(kind) for name, x in tensors.items()}, {"format": "pt"})
    replace_file(folder / WEIGHTS_FILE, weights)
    if tokenizer is not None:
        save_tokenizer(tokenizer, folder)
    tree |= role_ids(tokenizer)
    tree |= {"model_type": family.model_type, "dtype": dtype}
    replace_file(folder / CONFIG_FILE, (json.dumps(tree, indent=2) + "\n").encode())
    return family


def foreign_config(config: AGIConfig) -> tuple[Family, dict[str, Any]]:
    """The family that can express `config`, and its config.json.

    Raises:
        UserError: there is none.
    """
    if extra := _beyond(config):
        raise UserError(
            f"no Hugging Face family has {' or '.join(extra)}, so that this model cannot be "
            f"exported as one; train one with --set {' '.join(extra.values())}"
        )
    for family in FAMILIES:
        tree = family.to_foreign(config)
        if tree is not None:
            return family, tree
    raise UserError(
        f"no Hugging Face family combines norm={config.norm!r}, feedforward="
        f"{config.feedforward!r}, biases={config.biases!r}, qk_norm={config.qk_norm}, "
        f"position_encoding={config.position_encoding!r} and attention_type="
        f"{config.attention_type!r}; families are {', '.join(f.model_type for f in FAMILIES)}"
    )


_WITHOUT_MEMORY = (
    "memory.segment=null memory.stm_window=0 memory.recurrent=none memory.episodic_slots=0 "
    "memory.summary_slots=0 memory.task_tokens=0"
)


def _beyond(config: AGIConfig) -> dict[str, str]:
    """What the model has and no family knows, with the setting that leaves it away."""
    experts, kind = config.experts, config.attention_type
    unknown_kind = kind not in ("mha", "gqa", "mqa", "ring", "sliding")
    split = experts.layers != "every" or experts.stride > 1
    # Theirs have shares that sum to one; ours of a single choice is what teaches the router.
    single = experts.num_experts > 0 and experts.choices == 1
    given = [
        (f"attention_type={kind!r}", unknown_kind, "attention_type=gqa"),
        ("a single expert a token", single, "experts.top_k=2"),
        ("experts in some layers only", split, "experts.layers=every experts.every=null"),
        ("experts scored by sigmoids", experts.scores != "softmax", "experts.scores=softmax"),
        (
            "a temperature of the router",
            experts.temperature is not None,
            "experts.temperature=null",
        ),
        ("shared experts", experts.shared is not None, "experts.shared=null"),
        ("a balancing bias", experts.bias_rate is not None, "experts.bias_rate=null"),
        ("short convolutions", config.short_conv > 0, "short_conv=0"),
        ("attention sinks", config.attention.sinks is not None, "attention.sinks=null"),
        ("n-gram tables", bool(config.ngram.orders), "ngram.orders=[]"),
        ("a memory of earlier segments", config.memory.segment is not None, _WITHOUT_MEMORY),
        ("a parametric memory", config.knowledge.kind != "none", "knowledge.kind=none"),
        ("a graph over its tokens", config.graph.hops > 0, "graph.hops=0"),
        ("quantum circuits", config.quantum_layers > 0, "quantum_layers=0"),
        ("value residuals", config.value_residual, "value_residual=false"),
        ("value embeddings", config.value_embeddings, "value_embeddings=false"),
        ("residual gates", config.residual_gates, "residual_gates=false"),
        ("a norm of the embedding", config.embedding_norm, "embedding_norm=false"),
        (
            "layers that choose their tokens",
            config.depths.capacity is not None,
            "depths.capacity=null",
        ),
    ]
    return {name: setting for name, has, setting in given if has}


def _family(tree: Mapping[str, Any], folder: Path) -> Family:
    known = {family.model_type: family for family in FAMILIES}
    kind = tree.get("model_type")
    if kind not in known:
        raise UserError(
            f"{folder} holds a model of type {kind!r}, which is not among those that can be "
            f"imported: {', '.join(known)}"
        )
    return known[kind]


def _read_json(file: Path) -> dict[str, Any]:
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"{file} cannot be read: {error.strerror}; name the folder of a Hugging Face model"
        ) from None
    except ValueError as error:
        raise UserError(f"{file} is not JSON: {error}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{file} holds {type(tree).__name__}, expected an object")
    return tree


def _weight_files(folder: Path) -> list[Path]:
    index = folder / INDEX_FILE
    if not index.is_file():
        return [folder / WEIGHTS_FILE]
    places = _read_json(index).get("weight_map")
    if not isinstance(places, dict):
        raise UserError(f"{index} has no weight_map that names a file for every tensor")
    return [folder / str(name) for name in sorted(set(map(str, places.values())))]


def _read_tensors(folder: Path) -> Arrays:
    """All tensors of the folder in float32."""
    tensors: Arrays = {}
    for file in _weight_files(folder):
        with _opened(file) as opened:
            names = opened.keys()
            for name in names:
                tensors[name] = opened.get_tensor(name).astype(np.float32)
    return tensors


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """The tensors of a file, as NumPy arrays, which know bfloat16 by ml_dtypes."""
    try:
        with safe_open(file, framework="numpy") as opened:
            yield opened
    except FileNotFoundError:
        raise UserError(f"{file} is missing; the weights must be safetensors") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} cannot be read: {error}") from None


def _named(tensors: Arrays, config: AGIConfig) -> Arrays:
    """Tensors by the names of a whole language model, without what is none of its parameters."""
    if "wte.weight" in tensors:  # saved without its head
        tensors = {f"transformer.{name}": tensor for name, tensor in tensors.items()}
    tensors = {name: x for name, x in tensors.items() if not name.endswith(NO_PARAMETERS)}
    if config.tie_embeddings:
        tensors.pop("lm_head.weight", None)
    return tensors
