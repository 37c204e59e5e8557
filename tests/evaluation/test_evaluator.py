"""`TrainingEvaluator`: its report is JSON that any reader takes, with these keys and values."""

import json
import math
from dataclasses import asdict
from typing import Any

import jax
import numpy as np
import pytest

from rtdlm.config import MeshConfig
from rtdlm.evaluation import HeldOut, TrainingEvaluator, gradient_health
from rtdlm.evaluation.measure import gradient_norms, render
from rtdlm.models import TMSModel
from rtdlm.models.tms import Params
from rtdlm.parallel import make_mesh
from tests.models.small import packed_batch, random_params, small_config

MODEL = TMSModel(small_config(d_ff=24))


@pytest.fixture(scope="module")
def params() -> Params:
    return random_params(MODEL)


@pytest.fixture(scope="module")
def evaluator() -> TrainingEvaluator:
    batches = [packed_batch(MODEL.config, seed=seed) for seed in range(2)]
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    return TrainingEvaluator(MODEL, batches, mesh=mesh, bytes_per_token=3.5)


def strict(report: dict[str, Any]) -> dict[str, Any]:
    """The report after a reader that knows only what JSON knows."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    result: dict[str, Any] = json.loads(json.dumps(report), parse_constant=refuse)
    return result


def test_the_report_holds_everything_that_was_measured(
    evaluator: TrainingEvaluator, params: Params
) -> None:
    evaluator.compile(params)
    held_out = evaluator.evaluate(params)
    norms = {"decoder/embedding": np.array(0.5), "decoder/layers/w": np.array([0.25, 0.0])}
    report = evaluator.report(
        held_out, step=7, health=gradient_health(norms), tokens_per_second=12.5
    )
    assert strict(report) == report == {
        "step": 7,
        "held_out": {
            **{name: value for name, value in asdict(held_out).items() if name != "calls"},
            "bits_per_byte": pytest.approx(held_out.loss / math.log(2) / 3.5),
        },
        "gradients": {
            "norms": {
                "decoder/embedding": 0.5, "decoder/layers/w[0]": 0.25, "decoder/layers/w[1]": 0.0,
            },
            "not_finite": [],
            "exploding": [],
            "vanishing": ["decoder/layers/w[1]"],
        },
        "tokens_per_second": 12.5,
    }  # fmt: skip
    assert evaluator.evaluate(params) == held_out, "the same bits"


def test_what_was_not_measured_is_none(evaluator: TrainingEvaluator) -> None:
    held_out = HeldOut(1.0, math.e, 0.5, 0.75, 2.0, 10)
    report = strict(evaluator.report(held_out, step=1))
    assert report["gradients"] is None and report["tokens_per_second"] is None
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    unknown = TrainingEvaluator(MODEL, [], mesh=mesh)
    assert unknown.report(held_out, step=1)["held_out"]["bits_per_byte"] is None


def test_a_broken_model_still_makes_a_report(evaluator: TrainingEvaluator) -> None:
    held_out = HeldOut(math.nan, math.inf, 0.0, 0.0, math.nan, 10)
    norms = {"a": np.array([math.nan, 1.0, math.inf])}
    report = strict(
        evaluator.report(held_out, step=1, health=gradient_health(norms), tokens_per_second=1.0)
    )
    assert report["held_out"]["loss"] == "NaN" and report["held_out"]["perplexity"] == "Infinity"
    assert report["gradients"]["norms"]["a[2]"] == "Infinity"
    assert report["gradients"]["not_finite"] == ["a[0]", "a[2]"]
    lines = render({"checkpoint": "runs/a/checkpoints/1"} | report).splitlines()
    assert lines[2:4] == [
        "held-out loss:   nan nats a token over 10 tokens",
        "perplexity:      inf",
    ]


def test_the_report_for_a_person(evaluator: TrainingEvaluator) -> None:
    held_out = HeldOut(1.5, math.exp(1.5), 0.25, 0.625, 2.0, 12345)
    norms = {"a": np.array([1.0, 1.0]), "b": np.array(0.0)}
    report = evaluator.report(
        held_out, step=1000, health=gradient_health(norms), tokens_per_second=9999.6
    )
    assert render({"checkpoint": "runs/a/checkpoints/1000"} | report).splitlines() == [
        "checkpoint:      runs/a/checkpoints/1000",
        "step:            1,000",
        "held-out loss:   1.5000 nats a token over 12,345 tokens",
        "perplexity:      4.48",
        "bits per byte:   0.6183",
        "top-1 accuracy:  25.00%",
        "top-5 accuracy:  62.50%",
        "gradients:       vanishing: b",
        "speed:           10,000 tokens/s",
    ]


def test_gradient_norms_are_those_of_the_mean_loss(params: Params) -> None:
    batch = packed_batch(MODEL.config, seed=3)
    norms = gradient_norms(MODEL, params, batch)

    def loss(params: Params) -> jax.Array:
        nll = MODEL.batch_scores(params, batch).tokens.nll
        return (nll * batch.weights).sum() / batch.weights.sum()

    grads = jax.jit(jax.grad(loss))(params)
    embedding = np.linalg.norm(grads["decoder"]["embedding"])
    np.testing.assert_allclose(norms["decoder/embedding"], embedding, rtol=1e-5)
    down = np.asarray(grads["decoder/layers/block/feedforward/down"]["w"]).reshape(2, -1)
    np.testing.assert_allclose(
        norms["decoder/layers/block/feedforward/down/w"], np.linalg.norm(down, axis=1), rtol=1e-5
    )
    assert gradient_health(norms).healthy
