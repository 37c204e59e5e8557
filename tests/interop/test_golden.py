"""Every family against logits that `transformers` gave once: needs neither it nor PyTorch."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rtdlm.interop import read_pretrained, write_pretrained
from rtdlm.models import TMSModel
from tests.interop import golden
from tests.interop.families import CASES


@pytest.mark.parametrize("case", CASES)
def test_logits_are_the_golden_ones_and_tensors_come_back(case: str, tmp_path: Path) -> None:
    tree, tensors, expected = golden.read()[case]
    (tmp_path / "config.json").write_text(json.dumps(tree))
    save_file(tensors, tmp_path / "model.safetensors")
    config, params, _ = read_pretrained(tmp_path)
    found = jax.jit(TMSModel(config, precision={"compute": "float32"}).logits)(params, golden.ids())
    assert np.ptp(expected) > 0.5, "weights that matter"
    np.testing.assert_allclose(found[:, -golden.KEPT :], expected, atol=1e-4)
    again = tmp_path / "again"
    write_pretrained(again, config, params)
    written = load_file(again / "model.safetensors")
    assert written.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert written[name].tobytes() == tensor.tobytes(), name
    assert read_pretrained(again).config == config


def test_the_golden_file_is_what_transformers_says() -> None:
    pytest.importorskip("transformers", reason="the golden logits are those of transformers")
    pytest.importorskip("torch", reason="the reference models need PyTorch")
    kept = golden.read()
    assert kept.keys() == CASES.keys()
    for case, (_, tensors, expected) in kept.items():
        _, shapes, logits = golden.compute(case)
        assert shapes == {name: list(tensor.shape) for name, tensor in tensors.items()}
        np.testing.assert_allclose(logits, expected, atol=1e-5)
