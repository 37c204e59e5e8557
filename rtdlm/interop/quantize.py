"""Weight-only quantization: matrices and tables in 8 or 4 bits, everything else as it is.

    int8   q = round(w / s), s = max |w| / 127 over all inputs of an output     (arXiv 2208.07339)
    int4   q = round(w / s), s = max |w| / 7 over 32 inputs of an output
    nf4    the nearest of 16 quantiles of a normal distribution, times max |w| over 64 inputs
           (QLoRA, arXiv 2305.14314, appendix E)

A matrix is taken as outputs by inputs; a row of a table is an output. Scales are float32 for int8
and float16 for the others, so that a weight takes 4.5 bits in int4 and 4.25 in nf4.

Axes: O outputs (of all layers and experts), I inputs, G groups of an output.
"""

import json
import re
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from rtdlm.config import UserError
from rtdlm.disk import replace_file

Kind = Literal["int8", "int4", "nf4"]
KINDS: tuple[Kind, ...] = ("int8", "int4", "nf4")
GROUP: dict[Kind, int | None] = {"int8": None, "int4": 32, "nf4": 64}
"""Inputs that share a scale; None is all of an output."""
# Path -> axes that are summed over, counted from the end; what matches none stays as it is.
INPUTS: dict[str, tuple[int, ...]] = {
    r"(attention|memory)/(query|key|value)/w": (-3,),
    r"(attention|memory)/output/w": (-3, -2),
    r"(feedforward|experts|shared)/(gate|up|down)/w": (-2,),
    r"ngram/projection/w": (-3, -2),
    r"quantum/(input|output)/w": (-2,),
    r"overlap/(query|key|value)/w": (-3,),
    r"overlap/output/w": (-3, -2),
    r"graph/(input|output|reasoner/neuron/(message|gate|candidate))/w": (-2,),
    r"graph_block/(up|down)/w": (-2,),
    r"graph_attention/(reader|read)/w": (-3,),
    r"graph_attention/output/w": (-3, -2),
    r"core/(inject|copy_gate/open)/w": (-2,),
    r"knowledge/query/w": (-4,),
    r"knowledge/(gate|output)/w": (-2,),
    r"knowledge/(key|value)/w": (-3, -2),
    r"knowledge/(keys|values|table)": (-1,),
    r"decoder/(embedding|output|value_embedding)": (-1,),
    r"ngram/table": (-1,),
}
# From QLoRA: 8 quantiles below zero, zero, and 7 above, scaled to [-1, 1].
NF4 = np.array(
    [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
        -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
        0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
        0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ],
    np.float32,
)  # fmt: skip


class Quantized(NamedTuple):
    """One array in few bits."""

    kind: Kind
    codes: np.ndarray
    """int8 `[O, I]`, or uint8 `[O, I / 2]` with two codes each, the first one low."""
    scale_OG: np.ndarray
    shape: tuple[int, ...]
    """Of the array."""
    inputs: tuple[int, ...]
    """Its axes that were the inputs, counted from the end."""

    @property
    def nbytes(self) -> int:
        """Bytes of codes and scales."""
        return self.codes.nbytes + self.scale_OG.nbytes


def quantize(array: np.ndarray, kind: Kind, *, inputs: tuple[int, ...]) -> Quantized:
    """`array` in few bits; `inputs` are its axes that a product sums over, from the end."""
    w_OI = _as_matrix(np.asarray(array, np.float32), inputs)
    group = GROUP[kind] or w_OI.shape[1]
    w_OGI = _grouped(w_OI, group)
    largest_OG1 = np.abs(w_OGI).max(axis=-1, keepdims=True)
    if kind == "nf4":
        scale = largest_OG1.astype(np.float16)
        between = (NF4[1:] + NF4[:-1]) / 2
        codes = np.searchsorted(between, w_OGI / _safe(scale)).astype(np.uint8)
    else:
        top = 127 if kind == "int8" else 7
        scale = (largest_OG1 / top).astype(np.float32 if kind == "int8" else np.float16)
        codes = np.rint(w_OGI / _safe(scale)).clip(-top, top)
        codes = codes.astype(np.int8) if kind == "int8" else (codes + 8).astype(np.uint8)
    codes_OI = codes.reshape(len(w_OI), -1)
    if kind != "int8":
        codes_OI = codes_OI[:, ::2] | (codes_OI[:, 1::2] << 4)
    return Quantized(kind, codes_OI, scale[..., 0], array.shape, inputs)


def dequantize(small: Quantized) -> np.ndarray:
    """The array again, float32, with what rounding left of it."""
    codes = small.codes
    if small.kind != "int8":
        codes = np.stack([codes & 15, codes >> 4], axis=-1).reshape(len(codes), -1)
    codes = codes.reshape(len(codes), small.scale_OG.shape[1], -1)
    values = NF4[codes] if small.kind == "nf4" else codes.astype(np.float32)
    if small.kind == "int4":
        values = values - 8
    w_OI = (values * small.scale_OG.astype(np.float32)[..., None]).reshape(len(codes), -1)
    return _from_matrix(w_OI, small.shape, small.inputs)


def inputs_of(path: str) -> tuple[int, ...] | None:
    """Input axes of the parameter at `path`; None if it stays as it is."""
    for pattern, axes in INPUTS.items():
        if re.search(rf"(^|/){pattern}$", path):
            return axes
    return None


def quantize_params(params: Mapping[str, Mapping[str, Any]], kind: Kind) -> dict[str, Any]:
    """Path -> `Quantized`, or the array where it stays as it is."""
    found: dict[str, Any] = {}
    for module, leaves in params.items():
        for name, leaf in leaves.items():
            path, array = f"{module}/{name}", np.asarray(leaf)
            inputs = inputs_of(path)
            found[path] = array if inputs is None else quantize(array, kind, inputs=inputs)
    return found


def rounded_params(params: Mapping[str, Mapping[str, Any]], kind: Kind) -> Any:
    """The parameters, float32, as they are after quantization."""
    small = quantize_params(params, kind)

    def array(path: str) -> np.ndarray:
        item = small[path]
        return dequantize(item) if isinstance(item, Quantized) else item

    return {
        module: {name: array(f"{module}/{name}") for name in leaves}
        for module, leaves in params.items()
    }


def write_quantized(file: str | Path, found: Mapping[str, Any]) -> None:
    """Writes what `quantize_params` gives as safetensors: PATH.codes and PATH.scale, or PATH.

    The kind, shape and input axes of each are in the file's metadata, as JSON by path.
    """
    tensors: dict[str, np.ndarray] = {}
    about: dict[str, str] = {}
    for path, item in found.items():
        if isinstance(item, Quantized):
            tensors |= {f"{path}.codes": item.codes, f"{path}.scale": item.scale_OG}
            about[path] = json.dumps([item.kind, item.shape, item.inputs])
        else:
            tensors[path] = item
    replace_file(Path(file), save(tensors, about))


def read_quantized(file: str | Path) -> dict[str, Any]:
    """What `write_quantized` wrote.

    Raises:
        UserError: it cannot be read or is not such a file.
    """
    try:
        with safe_open(file, framework="numpy") as opened:
            about, names = opened.metadata() or {}, list(opened.keys())
            arrays = {name: opened.get_tensor(name) for name in names}
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file} cannot be read as quantized weights: {error}") from None
    found = {name: array for name, array in arrays.items() if "." not in name}
    try:
        for path in about.keys() - {"format"}:
            kind, shape, inputs = json.loads(about[path])
            codes, scale = arrays[f"{path}.codes"], arrays[f"{path}.scale"]
            found[path] = Quantized(kind, codes, scale, tuple(shape), tuple(inputs))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{file} is a safetensors file but not one of quantized weights: {error!r}; write it "
            "again with scripts/quantize_model.py"
        ) from None
    return found


def nbytes(found: Mapping[str, Any]) -> int:
    """Bytes of what `quantize_params` gives."""
    return sum(item.nbytes for item in found.values())


def _safe(scale: np.ndarray) -> np.ndarray:
    """float32, with ones in place of zeros: a group of zeros has no scale."""
    scale = scale.astype(np.float32)
    return np.where(scale > 0, scale, np.float32(1.0))


def _grouped(w_OI: np.ndarray, group: int) -> np.ndarray:
    """`[O, G, I / G]`, filled up with zeros, to an even number of codes in all."""
    spare = -w_OI.shape[1] % group
    padded = np.pad(w_OI, ((0, 0), (0, spare)))
    return padded.reshape(len(w_OI), -1, group)


def _as_matrix(array: np.ndarray, inputs: tuple[int, ...]) -> np.ndarray:
    """`[O, I]`."""
    last = tuple(range(-len(inputs), 0))
    moved = np.moveaxis(array, inputs, last)
    return moved.reshape(-1, prod(moved.shape[axis] for axis in last))


def _from_matrix(w_OI: np.ndarray, shape: tuple[int, ...], inputs: tuple[int, ...]) -> np.ndarray:
    last = tuple(range(-len(inputs), 0))
    sizes = [shape[axis] for axis in inputs]
    outputs = [size for axis, size in enumerate(shape) if axis - len(shape) not in inputs]
    moved = w_OI[:, : prod(sizes)].reshape(*outputs, *sizes)
    return np.ascontiguousarray(np.moveaxis(moved, last, inputs))
