"""A step whose attention runs by the TPU's kernels, interpreted, is the step without them."""

from typing import Any

import jax
import numpy as np
import pytest

from rtdlm.modules.attention import kinds, sliding
from rtdlm.modules.attention.scoring import Scoring
from tests.models.small import assert_trees_close, small_config
from tests.training.runs import ONE, PLAIN, Run, Shape, flat

LENGTH = 128
ROWS: dict[str, Any] = {"max_seq_len": LENGTH, "batch_size": 4, "optimizer": PLAIN}


def after_a_step(shape: Shape, **options: Any) -> tuple[dict[str, np.ndarray], Any]:
    run = Run(small_config(**ROWS, **options), shape)
    state, metrics = run.go(run.start())
    return flat(state.params), metrics


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        # Layers in a loop, micro-batches, rows and heads on devices of their own.
        ((2, 1, 2), {"remat": "full", "accumulate_steps": 2, "layer_unroll": 1}),
        (ONE, {"remat": "named", "attention_type": "sliding", "attention": {"window": 20}}),
    ],
    ids=["dense", "sliding"],
)
def test_a_step_equals_that_of_products(
    monkeypatch: pytest.MonkeyPatch, shape: Shape, options: dict[str, Any]
) -> None:
    expected, heard = after_a_step(shape, **options)
    used = []

    def serves(query_BTHE: jax.Array, scoring: Scoring) -> bool:
        if query_BTHE.shape[1] < LENGTH:  # of parameters that are being made
            return False
        used.append(scoring)
        return True

    monkeypatch.setattr(kinds, "splash_serves", serves)
    monkeypatch.setattr(sliding, "splash_serves", serves)
    params, told = after_a_step(shape, **options)
    assert used and float(told.grad_norm) > 0.01
    assert_trees_close(told, heard, rtol=2e-5)
    for path, value in expected.items():
        np.testing.assert_allclose(params[path], value, atol=1e-5, rtol=1e-5, err_msg=path)
