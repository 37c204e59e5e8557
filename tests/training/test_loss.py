"""The objective against optax and NumPy, as sums that add up over parts of a batch."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rtdlm.config import AGIConfig
from rtdlm.models.passing import Scores
from rtdlm.modules.experts import ExpertStatistics
from rtdlm.modules.head import token_loss
from rtdlm.training.knobs import Knobs
from rtdlm.training.loss import Sums, loss_sums, loss_terms

B, T, D, V, LAYERS = 3, 5, 4, 11, 2


@pytest.fixture(scope="module")
def case() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    x, table = rng.normal(size=(B, T, D)), rng.normal(size=(V, D))
    labels, weights = rng.integers(V, size=(B, T)), rng.random((B, T)) * (rng.random((B, T)) < 0.8)
    arrays = {"x": x, "table": table, "weights": weights}
    return {name: jnp.asarray(value, jnp.float32) for name, value in arrays.items()} | {
        "labels": jnp.asarray(labels, jnp.int32)
    }


def knobs(**values: float) -> Knobs:
    start = Knobs.from_config(AGIConfig())
    return start._replace(**{name: jnp.float32(value) for name, value in values.items()})


def sums_of(case: dict[str, Any], turned: Knobs, experts: ExpertStatistics | None = None) -> Sums:
    terms = loss_terms(case["weights"], turned, scale=jnp.float32(0.25))
    loss = token_loss(case["x"], case["table"], case["labels"], terms, cap=None, chunk_size=2)
    return loss_sums(Scores(loss.tokens, loss.objective, experts), case["weights"], turned)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("z", [0.0, 0.01])
def test_the_objective_is_smoothed_cross_entropy_plus_z_loss(
    case: dict[str, Any], smoothing: float, z: float
) -> None:
    sums = sums_of(case, knobs(label_smoothing=smoothing, z_loss=z))
    logits = jnp.einsum("BTD,VD->BTV", case["x"], case["table"])
    targets = optax.smooth_labels(jax.nn.one_hot(case["labels"], V), smoothing)
    each = optax.softmax_cross_entropy(logits, targets)
    each = each + z * jax.nn.logsumexp(logits, axis=-1) ** 2
    np.testing.assert_allclose(sums.objective, jnp.sum(each * case["weights"]), rtol=1e-5)
    assert sums.experts is None
    nll = optax.softmax_cross_entropy_with_integer_labels(logits, case["labels"])
    np.testing.assert_allclose(sums.tokens.nll, jnp.sum(nll * case["weights"]), rtol=1e-5)
    np.testing.assert_allclose(sums.tokens.weight, jnp.sum(case["weights"]), rtol=1e-6)


def test_experts_add_their_losses_times_the_weight(case: dict[str, Any]) -> None:
    experts = ExpertStatistics(
        balance=jnp.asarray([1.5, 2.5]),
        z=jnp.asarray([3.0, 5.0]),
        usage_E=jnp.ones((LAYERS, 4)) / 4,
        dropped=jnp.asarray([0.1, 0.3]),
    )
    plain = sums_of(case, knobs())
    turned = knobs(balance_weight=0.1, router_z_weight=0.01)
    sums = sums_of(case, turned, experts)
    weight = float(sums.tokens.weight)
    assert float(sums.objective) == pytest.approx(
        float(plain.objective) + weight * (0.1 * 2.0 + 0.01 * 4.0), rel=1e-6
    )
    assert sums.experts is not None
    told = sums.experts
    for found, wanted in zip(told[:2], (2.0, 4.0), strict=True):
        assert float(found) == pytest.approx(wanted * float(weight))
    np.testing.assert_allclose(told.dropped_L, experts.dropped * weight, rtol=1e-6)
    np.testing.assert_allclose(told.usage_LE, experts.usage_E * weight, rtol=1e-6)


def test_sums_over_parts_add_up_to_the_whole(case: dict[str, Any]) -> None:
    turned = knobs(label_smoothing=0.1, z_loss=0.01)
    whole = sums_of(case, turned)
    parts = []
    for row in range(B):
        part = {name: value[row : row + 1] for name, value in case.items() if name != "table"}
        part["table"] = case["table"]
        parts.append(sums_of(part, turned))
    added = jax.tree.map(lambda *values: sum(values), *parts)
    for got, expected in zip(jax.tree.leaves(added), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_knobs_start_at_the_configs_values() -> None:
    config = AGIConfig.from_dict(
        {
            "optimizer": {"weight_decay": 0.3, "clip_norm": 0.7},
            "loss": {"z_loss": 0.02, "label_smoothing": 0.05},
            "experts": {
                "num_experts": 4,
                "balance_weight": 0.5,
                "z_weight": 0.25,
                "bias_rate": 0.5,
            },
            "depths": {"capacity": 0.5, "predictor_weight": 0.75},
        }
    )
    walking = AGIConfig.from_dict({"graph": {"hops": 2, "hop_price": 0.125}})
    assert float(Knobs.from_config(walking).hop_price) == 0.125
    start = {name: float(value) for name, value in Knobs.from_config(config)._asdict().items()}
    assert start == pytest.approx(
        {
            "learning_rate_scale": 1.0,
            "weight_decay": 0.3,
            "clip_norm": 0.7,
            "z_loss": 0.02,
            "label_smoothing": 0.05,
            "balance_weight": 0.5,
            "router_z_weight": 0.25,
            "predictor_weight": 0.75,
            "bias_rate": 0.5,
            "hop_price": 0.0,
            "ponder_weight": 0.003,
        }
    )
    default = Knobs.from_config(AGIConfig())
    assert (float(default.balance_weight), float(default.router_z_weight)) == pytest.approx(
        (0.01, 0.001)
    )
    assert all(value.dtype == jnp.float32 and value.shape == () for value in default)
