"""Weights in few bits: the nearest code, by brute force; size; what stays as it is."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from rtdlm.config import UserError
from rtdlm.interop.quantize import (
    GROUP,
    INPUTS,
    KINDS,
    NF4,
    Kind,
    Quantized,
    dequantize,
    nbytes,
    quantize,
    quantize_params,
    read_quantized,
    rounded_params,
    write_quantized,
)
from rtdlm.models import TMSModel
from tests.models.small import (
    CIRCUIT,
    CONTROLLED,
    GRAPH,
    GRAPH_ATTENTION,
    HASHED,
    KEYS,
    OVERLAP,
    RICH,
    ROOMY,
    random_params,
    small_config,
)

CODES: dict[Kind, Any] = {
    "int8": np.arange(-127, 128) / 127,
    "int4": np.arange(-7, 8) / 7,
    "nf4": NF4,
}
BITS: dict[Kind, float] = {"int8": 8.0, "int4": 4.5, "nf4": 4.25}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("shape", "inputs"),
    [((3, 128, 6), (-2,)), ((2, 4, 16, 5), (-3, -2)), ((50, 64), (-1,)), ((2, 40, 3, 2), (-3,))],
)
def test_every_weight_takes_the_nearest_code(
    kind: Kind, shape: tuple[int, ...], inputs: tuple[int, ...]
) -> None:
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found = dequantize(quantize(array, kind, inputs=inputs))
    assert found.shape == shape
    assert found.dtype == np.float32
    outputs = [axis for axis in range(len(shape)) if axis - len(shape) not in inputs]
    order = [*outputs, *[axis % len(shape) for axis in inputs]]
    size = int(np.prod([shape[axis] for axis in inputs]))
    plain, rounded = (x.transpose(order).reshape(-1, size) for x in (array, found))
    group = GROUP[kind] or size
    for row, start in np.ndindex(len(plain), -(-size // group)):
        here = slice(start * group, (start + 1) * group)
        largest = np.abs(plain[row, here]).max()
        codes = CODES[kind] * largest
        nearest = codes[np.abs(plain[row, here, None] - codes).argmin(-1)]
        # Scales are rounded too, by a part in a thousand: next to a middle either code is near.
        error, least = (
            np.abs(rounded[row, here] - plain[row, here]),
            np.abs(nearest - plain[row, here]),
        )
        assert (error <= least + 2e-3 * largest).all()


@pytest.mark.parametrize("kind", KINDS)
def test_zeros_stay_zeros_and_the_largest_stays(kind: Kind) -> None:
    array = np.zeros((64, 3), np.float32)
    array[5, 1], array[9, 2] = -0.7, 1e-3
    found = dequantize(quantize(array, kind, inputs=(-2,)))
    assert not found[:, 0].any()
    assert found[5, 1] == pytest.approx(-0.7, rel=1e-3)
    assert found[9, 2] == pytest.approx(1e-3, rel=1e-3)
    assert np.count_nonzero(found) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_are_what_the_kind_says(kind: Kind) -> None:
    small = quantize(np.ones((4, 256, 512), np.float32), kind, inputs=(-2,))
    overhead = 32 / 256 if kind == "int8" else 0.0
    assert 8 * small.nbytes / (4 * 256 * 512) == BITS[kind] + overhead


FORMS: tuple[dict[str, Any], ...] = (
    *({}, RICH, {"experts": ROOMY}, KEYS, HASHED, GRAPH, GRAPH_ATTENTION),
    *(CIRCUIT, OVERLAP, CONTROLLED),
)


def test_matrices_and_tables_are_quantized_and_nothing_else_is_changed() -> None:
    for form in FORMS:
        model = TMSModel(small_config(**form))
        params = random_params(model)
        small = quantize_params(params, "int8")
        rounded = rounded_params(params, "int8")
        for module, leaves in params.items():
            for name, leaf in leaves.items():
                path = f"{module}/{name}"
                if isinstance(small[path], Quantized):
                    error = np.abs(rounded[module][name] - np.asarray(leaf)).max()
                    assert 0 < error < np.abs(np.asarray(leaf)).max() / 200
                else:
                    np.testing.assert_array_equal(rounded[module][name], leaf)
        kept = [path for path, item in small.items() if not isinstance(item, Quantized)]
        assert all(any(word in path for word in KEPT) for path in kept), kept
        # A policy is as wide in this small model as in a large one, and is kept as it is.
        policy = "core/controller"
        whole = sum(
            leaf.nbytes
            for module, leaves in params.items()
            for leaf in leaves.values()
            if policy not in module
        )
        rest = {path: item for path, item in small.items() if policy not in path}
        assert nbytes(rest) < 0.45 * whole


KEPT = (
    *("norm/scale", "router/w", "_conv/kernel", "_mix/weights", "decoder/position", "/b"),
    *("graph/edges", "graph/reasoner/halt", "graph_attention/direction", "graph_attention/kind"),
    *("circuit/angles", "overlap/angles"),
    *("core/controller", "copy_gate/steps", "core/log_prices"),
)


def test_every_pattern_names_some_parameter() -> None:
    paths = set()
    for form in FORMS:
        shapes = TMSModel(small_config(**form)).shapes
        paths |= {f"{module}/{name}" for module, leaves in shapes.items() for name in leaves}
    matched = {p for p in INPUTS for path in paths if re.search(rf"(^|/){p}$", path)}
    assert matched == set(INPUTS)


def test_a_file_gives_back_what_it_was_given(tmp_path: Path) -> None:
    params = random_params(TMSModel(small_config()))
    for kind in KINDS:
        small = quantize_params(params, kind)
        write_quantized(tmp_path / "weights.safetensors", small)
        again = read_quantized(tmp_path / "weights.safetensors")
        assert again.keys() == small.keys()
        for path, item in small.items():
            if isinstance(item, Quantized):
                np.testing.assert_array_equal(dequantize(again[path]), dequantize(item))
                assert again[path][0] == kind
            else:
                np.testing.assert_array_equal(again[path], item)
    save_file({}, tmp_path / "weights.safetensors", {"a/w": '["int8", [2], [-1]]'})
    with pytest.raises(UserError, match="not one of quantized weights: KeyError"):
        read_quantized(tmp_path / "weights.safetensors")
    (tmp_path / "weights.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match="cannot be read as quantized weights"):
        read_quantized(tmp_path / "weights.safetensors")
