"""Prices of a controller's strategies: budgets are met, by one compiled program."""

from typing import Any

import jax
import numpy as np
import pytest

from rtdlm.config import STRATEGIES, MeshConfig
from rtdlm.evaluation import Pricing, evaluate, make_eval_step, pricing_of, with_price
from rtdlm.models import TMSModel
from rtdlm.models.tms import Params, with_strategy
from rtdlm.parallel import make_mesh
from tests.models.small import CONTROLLED, packed_batch, random_params, small_config

MODEL = TMSModel(small_config(**{**CONTROLLED, "controller": {"max_steps": 3}}))
MESH = make_mesh(MeshConfig(), jax.devices()[:1])
BATCHES = [packed_batch(MODEL.config, seed=seed) for seed in (1, 2)]


@pytest.fixture(scope="module")
def params() -> Params:
    """A policy that listens to the price; random ones hardly do."""
    found: Any = random_params(MODEL)
    core = "decoder/core/controller"
    found[f"{core}/told"]["w"] = np.asarray(found[f"{core}/told"]["w"]).copy()
    found[f"{core}/told"]["w"][0] = 2.0 * np.sign(found[f"{core}/decide"]["w"][:, 0])
    return found


def steps_at(params: Params, strategy: str, price: float | None = None) -> float:
    model = with_strategy(MODEL, strategy)  # type: ignore[arg-type]
    own = params if price is None else with_price(params, strategy, price)
    found = evaluate(make_eval_step(model, MESH), own, BATCHES).steps
    assert found is not None
    return found


def test_a_budget_is_met_from_below_and_nearly_spent(params: Params) -> None:
    pricing = Pricing(MODEL, mesh=MESH)
    spent = []
    for budget in (0.4, 0.6, 0.8):
        found = pricing.price_for(params, BATCHES, budget=budget)
        assert found.binding
        assert 0.9 * budget < found.cost <= budget
        assert found.cost * 3 == pytest.approx(steps_at(params, "fast", found.price))
        spent.append(found.price)
    assert spent == sorted(spent, reverse=True)


def test_every_strategy_gets_its_own_price(params: Params) -> None:
    priced = pricing_of(MODEL, mesh=MESH)(params, BATCHES)
    for strategy in ("fast", "balanced"):
        budget = STRATEGIES[strategy].budget
        assert 0.9 * budget < steps_at(priced, strategy) / 3 <= budget
    assert steps_at(priced, "thorough") == pytest.approx(3.0)
    for path, leaves in params.items():
        for name, leaf in leaves.items():
            same = np.array_equal(leaf, priced[path][name])
            assert same == (name != "log_prices"), (path, name)


def test_without_a_controller_there_is_nothing_to_price() -> None:
    plain: Any = {"decoder": {"embedding": np.ones(3)}}
    assert pricing_of(TMSModel(small_config()), mesh=MESH)(plain, []) is plain
