"""Every family against `transformers` itself: logits, names and bytes."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from rtdlm.data import byte_tokenizer
from rtdlm.interop import read_pretrained, write_pretrained
from rtdlm.models import TMSModel
from tests.interop.families import CASES, make
from tests.models.small import random_params, small_config

pytest.importorskip("transformers", reason="the reference models are those of transformers")
pytest.importorskip("torch", reason="the reference models need PyTorch")

LENGTH = 24


@pytest.fixture(scope="module", params=CASES)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder that transformers wrote, ids, and transformers' logits for them."""
    import torch

    folder = tmp_path_factory.mktemp("model")
    model = make(request.param)
    model.save_pretrained(folder)
    ids = np.random.default_rng(0).integers(48, size=(2, LENGTH))
    with torch.no_grad():
        logits = model(torch.from_numpy(ids)).logits.numpy()
    return folder, ids.astype(np.int32), logits


def test_logits_are_those_of_transformers(saved: Any) -> None:
    folder, ids, expected = saved
    config, params, tokenizer = read_pretrained(folder)
    assert tokenizer is None
    found = jax.jit(TMSModel(config, precision={"compute": "float32"}).logits)(params, ids)
    assert np.abs(expected).max() > 0.5, "weights that matter"
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_what_is_exported_again_has_the_same_bytes_and_loads_without_a_word(
    saved: Any, tmp_path: Path
) -> None:
    import torch
    import transformers

    folder, ids, expected = saved
    config, params, _ = read_pretrained(folder)
    write_pretrained(tmp_path, config, params)
    ours, theirs = (load_file(place / "model.safetensors") for place in (tmp_path, folder))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].tobytes() == tensor.tobytes(), name
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, output_loading_info=True, attn_implementation="eager"
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    with torch.no_grad():
        found = model(torch.from_numpy(ids.astype(np.int64))).logits.numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)
    again = read_pretrained(tmp_path).config
    assert again == config


def test_a_model_that_was_made_here_is_one_there(tmp_path: Path) -> None:
    """Of our own configuration, with our own names and our own way of initialising."""
    import torch
    import transformers

    config = small_config(vocab_size=260)
    model = TMSModel(config, precision={"compute": "float32"})
    params = random_params(model)
    write_pretrained(tmp_path, config, params, tokenizer=byte_tokenizer())
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, output_loading_info=True, attn_implementation="eager"
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    ids = np.random.default_rng(0).integers(260, size=(2, 12))
    with torch.no_grad():
        expected = theirs.eval()(torch.from_numpy(ids)).logits.numpy()
    found = jax.jit(model.logits)(params, ids.astype(np.int32))
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(found, expected, atol=1e-4)
