"""Held-out figures: a token-weighted mean, the same bits every time, on any mesh."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.config import MeshConfig, UserError
from rtdlm.data.batch import Batch, empty_batch
from rtdlm.evaluation import TokenSums, evaluate, make_eval_step
from rtdlm.models import TMSModel
from rtdlm.parallel import make_mesh
from tests.models.small import packed_batch, random_params, small_config
from tests.modules import reference

CONFIG = small_config(dropout_rate=0.5, loss={"z_loss": 1.0, "label_smoothing": 0.5})
MODEL = TMSModel(CONFIG)


def sparse_batch(*, tokens: int, seed: int) -> Batch:
    """A batch in which only `tokens` labels count."""
    batch = packed_batch(CONFIG, seed=seed)
    counting = np.flatnonzero(batch.weights.ravel())[:tokens]
    weights = np.zeros(batch.weights.size, np.float32)
    weights[counting] = 1.0
    return batch._replace(weights=weights.reshape(batch.weights.shape))


@pytest.fixture(scope="module")
def batches() -> list[Batch]:
    """Of very different sizes, so that a mean of their means is far from the mean."""
    return [sparse_batch(tokens=tokens, seed=tokens) for tokens in (40, 1, 7)]


def test_it_is_the_mean_over_tokens_without_dropout_or_regularisers(batches: list[Batch]) -> None:
    params = random_params(MODEL)
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    found = evaluate(make_eval_step(MODEL, mesh), params, batches)
    logits = jax.jit(TMSModel(small_config()).logits)
    each: dict[str, list[float]] = {"nll": [], "top1": [], "top5": [], "entropy": []}
    batch_means = []
    for batch in batches:
        rows = {"positions_BT": batch.positions, "segment_ids_BT": batch.segment_ids}
        exact = np.asarray(logits(params, batch.input_ids, **rows), np.float64)
        places = np.argwhere(batch.weights > 0)
        tokens = [
            reference.token_statistics(exact[b, t], int(batch.labels[b, t])) for b, t in places
        ]
        for name, values in each.items():
            values += [token[name] for token in tokens]
        batch_means.append(np.mean([token["nll"] for token in tokens]))
    assert found.tokens == len(each["nll"]) == 48
    assert found.loss == pytest.approx(np.mean(each["nll"]), rel=1e-5)
    assert abs(found.loss - np.mean(batch_means)) > 0.01, "a mean of means would be seen"
    assert found.perplexity == pytest.approx(math.exp(found.loss))
    assert found.top1 == pytest.approx(np.mean(each["top1"]))
    assert found.top5 == pytest.approx(np.mean(each["top5"]))
    assert found.entropy == pytest.approx(np.mean(each["entropy"]), rel=1e-5)


def test_it_repeats_bitwise_and_holds_on_a_mesh(batches: list[Batch]) -> None:
    params = random_params(MODEL)
    step = make_eval_step(MODEL, make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)))
    first, again = evaluate(step, params, batches), evaluate(step, params, batches)
    assert first == again
    alone = make_eval_step(MODEL, make_mesh(MeshConfig(), jax.devices()[:1]))
    one = evaluate(alone, params, batches)
    assert evaluate(alone, params, batches) == one
    assert first.loss == pytest.approx(one.loss, rel=1e-5)
    assert (first.top1, first.top5, first.tokens) == (one.top1, one.top5, one.tokens)


def test_nothing_to_predict_is_one_sentence() -> None:
    step = make_eval_step(MODEL, make_mesh(MeshConfig(), jax.devices()[:1]))
    expected = (
        "the held-out set holds no token to predict; raise data.held_out_fraction or add text"
    )
    for batches in ([], [empty_batch(8, 12)]):
        with pytest.raises(UserError, match=f"^{re.escape(expected)}$"):
            evaluate(step, random_params(MODEL), batches)


@pytest.mark.parametrize(
    ("nll", "perplexity"), [(800.0, math.inf), (math.nan, math.nan), (2.0, math.exp(2.0))]
)
def test_perplexity_of_a_broken_model_is_what_it_is(nll: float, perplexity: float) -> None:
    sums = TokenSums(*jnp.array([nll, 0.0, 0.0, 0.0, 1.0]))
    found = evaluate(lambda params, batch: sums, None, [empty_batch(1, 1)])
    assert found.perplexity == pytest.approx(perplexity, nan_ok=True)


def test_sums_are_added_in_double_precision() -> None:
    """A hundred million tokens and one: float32 would lose the one."""
    parts = iter([TokenSums(*jnp.full(5, w)) for w in (1e8, 1.0)])
    found = evaluate(lambda params, batch: next(parts), None, [empty_batch(1, 1)] * 2)
    assert found.tokens == 100_000_001
