"""Graphs in the model: trained whole, run with more hops than trained, gone when not asked for."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.models import TMSModel
from rtdlm.training.knobs import Knobs
from rtdlm.training.loss import loss_sums, loss_terms
from tests.models.small import (
    GRAPH,
    GRAPH_ATTENTION,
    ROOMY,
    packed_batch,
    random_params,
    small_config,
)

ROUTED: dict[str, Any] = {"graph": {**GRAPH["graph"], "route_experts": True}, "experts": ROOMY}


@pytest.mark.parametrize("form", [GRAPH, GRAPH_ATTENTION], ids=["sum", "attention"])
@pytest.mark.parametrize("selection", ["straight_through", "top_k", "dense"])
def test_every_parameter_of_a_graph_has_a_gradient(selection: str, form: dict[str, Any]) -> None:
    own = {**form["graph"], "selection": selection}
    if selection == "dense":
        del own["neighbours"]
    model = TMSModel(small_config(graph=own))
    params, batch = random_params(model), packed_batch(model.config, rows=2)
    ids, labels = jnp.asarray(batch.input_ids), jnp.asarray(batch.labels)
    slopes = jax.jit(jax.grad(lambda p: jnp.sum(model.scores(p, ids, labels).tokens.nll)))(params)
    graph = {path: leaves for path, leaves in slopes.items() if "/graph" in path}
    assert len(graph) == (10 if form is GRAPH else 15)
    for path, leaves in graph.items():
        for name, leaf in leaves.items():
            assert np.asarray(leaf).any(axis=tuple(range(1, leaf.ndim))).all(), (path, name)
            assert np.isfinite(leaf).all(), (path, name)


@pytest.mark.parametrize("form", [GRAPH, GRAPH_ATTENTION], ids=["sum", "attention"])
def test_a_fresh_graph_is_ready_to_learn(form: dict[str, Any]) -> None:
    """Unlike random parameters, fresh ones begin with equal queries and keys and shut biases."""
    model = TMSModel(small_config(**form))
    params, batch = jax.jit(model.init)(jax.random.key(0)), packed_batch(model.config, rows=2)
    ids, labels = jnp.asarray(batch.input_ids), jnp.asarray(batch.labels)
    slopes = jax.jit(jax.grad(lambda p: jnp.sum(model.scores(p, ids, labels).tokens.nll)))(params)
    edges = "decoder/layers/block/graph/edges"
    np.testing.assert_array_equal(params[f"{edges}/query"]["w"], params[f"{edges}/key"]["w"])
    for name in ("query", "key"):
        assert np.abs(slopes[f"{edges}/{name}"]["w"]).max() > 1e-5


@pytest.mark.parametrize("form", [GRAPH, GRAPH_ATTENTION], ids=["sum", "attention"])
def test_a_graph_adds_to_the_stream(form: dict[str, Any]) -> None:
    """With its last product at zero the model is the one without it."""
    model, plain = TMSModel(small_config(**form)), TMSModel(small_config())
    params = random_params(model)
    ids = jnp.asarray(packed_batch(model.config).input_ids)
    without = {path: leaves for path, leaves in params.items() if "/graph" not in path}
    expected = jax.jit(plain.logits)(without, ids)
    assert np.abs(jax.jit(model.logits)(params, ids) - expected).max() > 0.1
    last = "decoder/layers/block/graph/output"
    params[last] = {"w": jnp.zeros_like(params[last]["w"])}
    np.testing.assert_allclose(jax.jit(model.logits)(params, ids), expected, atol=1e-6)


def test_without_a_graph_nothing_is_made_of_it() -> None:
    model = TMSModel(small_config(graph={"hops": 0}))
    assert not [path for path in model.shapes if "graph" in path]
    assert model.empty_cache(1, 4).loops[0][0].graph is None


@pytest.mark.parametrize("form", [GRAPH, GRAPH_ATTENTION], ids=["sum", "attention"])
def test_a_trained_model_may_run_with_more_hops(form: dict[str, Any]) -> None:
    few = TMSModel(small_config(**form))
    many = TMSModel(few.config.replace(graph={"hops": 5}))
    assert jax.tree.map(jnp.shape, few.shapes) == jax.tree.map(jnp.shape, many.shapes)
    params, ids = random_params(few), jnp.asarray(packed_batch(few.config).input_ids)
    apart = jax.jit(many.logits)(params, ids) - jax.jit(few.logits)(params, ids)
    assert np.abs(apart).max() > 1e-3


def test_attention_takes_the_hops_where_it_is_asked_for() -> None:
    """There is a block in place of the neuron, and what scores edges matters."""
    model = TMSModel(small_config(**GRAPH_ATTENTION))
    params, ids = random_params(model), jnp.asarray(packed_batch(model.config).input_ids)
    block = "decoder/layers/block/graph/reasoner/graph_block"
    assert {path for path in params if "neuron" in path} == set()
    assert params[f"{block}/graph_attention"]["direction"].shape == (2, 2, 6)
    expected = jax.jit(model.logits)(params, ids)
    moved = {**params[f"{block}/graph_attention"]}
    moved["direction"] = -moved["direction"]
    found = jax.jit(model.logits)({**params, f"{block}/graph_attention": moved}, ids)
    assert np.abs(found - expected).max() > 1e-3


def test_neighbours_choose_experts_together() -> None:
    model = TMSModel(small_config(**ROUTED))
    alone = TMSModel(model.config.replace(graph={"route_experts": None}))
    params, batch = random_params(model), packed_batch(model.config)
    assert set(model.shapes) == set(alone.shapes)
    with_graph, without = (
        jax.jit(own.batch_scores)(params, batch).experts for own in (model, alone)
    )
    assert np.abs(with_graph.usage_E - without.usage_E).max() > 0.01


def test_hops_are_told_and_priced() -> None:
    config = small_config(**GRAPH)
    model, batch = TMSModel(config), packed_batch(config)
    params, knobs = random_params(model), Knobs.from_config(config)

    def sums(price: float) -> Any:
        own = knobs._replace(hop_price=jnp.float32(price))
        terms = loss_terms(batch.weights, own, scale=jnp.float32(1.0))
        return loss_sums(model.batch_scores(params, batch, terms=terms), batch.weights, own)

    free, priced = jax.jit(sums)(0.0), jax.jit(sums)(0.5)
    hops = float(free.graphs.hops / free.tokens.weight)
    assert 0.0 < hops < 2.0
    np.testing.assert_allclose(priced.objective - free.objective, 0.5 * free.graphs.hops, rtol=1e-4)
    assert 0.0 < float(free.graphs.neighbours / free.tokens.weight) <= 2.0
    assert 0.0 < float(free.graphs.distance / free.tokens.weight) < 12.0
