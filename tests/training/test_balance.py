"""Balancing by a bias: what it evens out, and what it keeps away from."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.config import UserError
from rtdlm.training.loop import metric_values
from rtdlm.training.loss import ExpertSums
from rtdlm.training.optimizer import check_rules, evaluation_params
from rtdlm.training.saving import from_snapshot
from rtdlm.training.usage import expert_values
from tests.models.small import DROPLESS, assert_trees_equal, random_params, small_config
from tests.training.runs import PLAIN, Run, flat
from tests.training.test_saving import reread, saved

BIAS = "decoder/layers/block/experts/bias"
# Nothing but the biases moves.
STILL = PLAIN | {"learning_rate": 1e-12}


def planted(run: Run) -> Any:
    """Parameters under which the first expert wins nearly every token."""
    params = random_params(run.model)
    router = params["decoder/layers/block/experts/router"]
    router["w"] = 0.1 * router["w"]
    experts = params["decoder/layers/block/experts"]
    experts["bias"] = jnp.zeros_like(experts["bias"]).at[:, 0].set(0.3)
    return params


def test_a_planted_imbalance_evens_out_without_the_loss() -> None:
    run = Run(small_config(experts=DROPLESS, optimizer=STILL))
    assert float(run.knobs.balance_weight) == 0.0
    state, batch, seen = run.start(planted(run)), run.batch(), []
    for step in range(70):
        # A smaller rate at the end, or the bias goes to and fro between two neighbours.
        rate = DROPLESS["bias_rate"] / (1 if step < 50 else 10)
        state, metrics = run.go(state, batch=jax.tree.map(jnp.copy, batch), bias_rate=rate)
        seen.append(metric_values(jax.device_get(metrics), run.config))
    assert seen[0]["experts_imbalance"] > 1.8
    assert np.mean([told["experts_imbalance"] for told in seen[-10:]]) < 1.15
    assert seen[0]["experts_entropy"] < seen[-1]["experts_entropy"]
    for told in (seen[0], seen[-1]):
        assert told["experts_imbalance"] == pytest.approx(
            (told["experts_imbalance_layer_1"] + told["experts_imbalance_layer_2"]) / 2
        )


def test_one_step_moves_a_bias_by_the_rate_and_no_optimizer_knows_it() -> None:
    form = {
        "name": "schedule_free", "schedule": "constant", "warmup_steps": 0, "weight_decay": 0.5,
        "clip_norm": 1e-3,
    }  # fmt: skip
    run = Run(small_config(experts=DROPLESS, optimizer=form, accumulate_steps=2))
    start = run.start(planted(run))
    assert not any("bias" in path for path in flat(start.optimizer))
    before = flat(start.params)[BIAS]
    state, metrics = run.go(start)
    assert "bias" not in " ".join(metrics.layer_grad_norms)
    moved = flat(state.params)[BIAS] - before
    np.testing.assert_allclose(np.abs(moved), DROPLESS["bias_rate"], rtol=1e-4)
    assert (moved[:, 0] < 0).all(), "away from the crowded expert"
    usage_LE = np.asarray(metrics.means.experts.usage_LE)
    crowded = usage_LE > 1 / 4 + 0.05
    assert crowded.any() and (moved[crowded] < 0).all()
    shipped = evaluation_params(run.config.optimizer, state.optimizer, state.params)
    np.testing.assert_array_equal(flat(shipped)[BIAS], before + moved)
    back, _, _ = from_snapshot(reread(saved(run, state)), run.shapes, run.config, run.mesh)
    assert_trees_equal(back, state)


def test_a_learning_rate_rule_for_a_bias_is_refused() -> None:
    config = small_config(
        experts=DROPLESS, optimizer={"learning_rate_rules": {"experts/bias": 0.5}}
    )
    with pytest.raises(UserError, match="matches no parameter"):
        check_rules(config.optimizer, Run(config).model.shapes)


def test_what_a_log_says_is_this_table() -> None:
    """Two layers, the 2nd and the 4th of the model: one even, one collapsed to half."""
    sums = ExpertSums(
        balance=jnp.float32(1.5),
        router_z=jnp.float32(2.0),
        dropped_L=jnp.asarray([0.0, 0.5]),
        usage_LE=jnp.asarray([[0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 0.0, 0.0]]),
    )
    assert expert_values(sums, [2, 4]) == pytest.approx(
        {
            "experts_balance": 1.5,
            "experts_router_z": 2.0,
            "experts_dropped": 0.25,
            "experts_entropy": 0.75,
            "experts_imbalance": 1.5,
            "experts_collapsed": 2.0,
            "experts_dropped_layer_2": 0.0,
            "experts_dropped_layer_4": 0.5,
            "experts_entropy_layer_2": 1.0,
            "experts_entropy_layer_4": 0.5,
            "experts_imbalance_layer_2": 1.0,
            "experts_imbalance_layer_4": 2.0,
            "experts_collapsed_layer_2": 0.0,
            "experts_collapsed_layer_4": 2.0,
        }
    )
