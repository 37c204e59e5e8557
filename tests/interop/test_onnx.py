"""ONNX graphs under onnxruntime: our logits for rows of any number and length."""

import numpy as np
import pytest

from rtdlm.config import AGIConfig
from tests.interop import golden
from tests.interop.families import CASES

pytest.importorskip("onnx", reason="the graph is made with onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="the graph is run by onnxruntime")


def session(config: AGIConfig, params: object) -> "onnxruntime.InferenceSession":
    from rtdlm.interop.onnx_graph import onnx_model

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    found = onnx_model(config, params)
    return onnxruntime.InferenceSession(found.SerializeToString(), options)


@pytest.mark.parametrize("case", CASES)
def test_the_graph_gives_the_golden_logits(case: str) -> None:
    config, params, expected = golden.pretrained(case)
    run = session(config, params)
    ids = golden.ids().astype(np.int64)
    [found] = run.run(None, {"input_ids": ids})
    np.testing.assert_allclose(found[:, -golden.KEPT :], expected, atol=1e-4)
    # A shorter row alone, and a longer batch: what is past does not change.
    [short] = run.run(None, {"input_ids": ids[:1, :7]})
    np.testing.assert_allclose(short, found[:1, :7], atol=1e-5)
    [more] = run.run(None, {"input_ids": np.concatenate([ids, ids], axis=1)[[1, 0, 1]]})
    assert more.shape == (3, 2 * golden.LENGTH, 48)
    np.testing.assert_allclose(more[:, : golden.LENGTH], found[[1, 0, 1]], atol=1e-5)
