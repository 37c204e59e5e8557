"""Parametric memories in the model: trained whole, apart by document, absent when not asked for."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.models import TMSModel
from rtdlm.parallel import make_mesh
from rtdlm.training.knobs import Knobs
from rtdlm.training.optimizer import make_optimizer
from rtdlm.training.state import init_state
from rtdlm.training.step import make_train_step
from tests.models.small import HASHED, KEYS, packed_batch, random_params, small_config

FORMS = {"product keys": KEYS, "hashed": HASHED}


@pytest.mark.parametrize("zero", [False, True], ids=["random outputs", "zero outputs"])
@pytest.mark.parametrize("form", FORMS)
def test_after_one_step_every_parameter_of_a_memory_has_a_gradient(form: str, zero: bool) -> None:
    optimizer = {"warmup_steps": 0}
    config = small_config(**FORMS[form], zero_init_outputs=zero, optimizer=optimizer)
    model, batch, mesh = TMSModel(config), packed_batch(config), make_mesh(config.mesh)
    rule = make_optimizer(config.optimizer)
    state = init_state(model, rule, mesh)
    step = make_train_step(model, rule, mesh)
    state, _ = step(state, batch, Knobs.from_config(config), jnp.float32(0.0))
    ids, labels = jnp.asarray(batch.input_ids), jnp.asarray(batch.labels)
    params = jax.device_get(state.params)
    slopes = jax.jit(jax.grad(lambda p: jnp.sum(model.scores(p, ids, labels).tokens.nll)))(params)
    own = {path: leaves for path, leaves in slopes.items() if "/knowledge" in path}
    assert len(own) == 5
    for path, leaves in own.items():
        for name, leaf in leaves.items():
            assert np.asarray(leaf).any(axis=tuple(range(1, leaf.ndim))).all(), (path, name)


@pytest.mark.parametrize("form", FORMS)
def test_a_memory_adds_to_what_the_feed_forward_layer_writes(form: str) -> None:
    """With its last product at zero the model is the one without it."""
    model, plain = TMSModel(small_config(**FORMS[form])), TMSModel(small_config())
    params = random_params(model)
    last = "decoder/layers/block/knowledge/" + ("output" if form == "product keys" else "value")
    ids = jnp.asarray(packed_batch(model.config).input_ids)
    without = {path: leaves for path, leaves in params.items() if "/knowledge" not in path}
    expected = jax.jit(plain.logits)(without, ids)
    assert np.abs(jax.jit(model.logits)(params, ids) - expected).max() > 0.1
    params[last] = {"w": jnp.zeros_like(params[last]["w"])}
    np.testing.assert_allclose(jax.jit(model.logits)(params, ids), expected, atol=1e-6)


def test_without_a_memory_nothing_is_made_of_it() -> None:
    model = TMSModel(small_config(knowledge={"kind": "none"}))
    assert not [path for path in model.shapes if "knowledge" in path]
    assert model.empty_cache(1, 4).input.recent_BJ is None


def test_the_hashed_memory_reads_as_far_back_as_its_longest_order() -> None:
    """With attention silenced, a token's logits hang on the last three tokens and no others."""
    config = small_config(**HASHED)
    model = TMSModel(config)
    params = random_params(model)
    output = "decoder/layers/block/attention/output"
    params[output] = {"w": jnp.zeros_like(params[output]["w"])}
    logits = jax.jit(model.logits)
    ids = np.arange(12, dtype=np.int32)[None] * 5
    before = np.asarray(logits(params, jnp.asarray(ids)))
    for back in range(5):
        changed = ids.copy()
        changed[0, 8 - back] += 1
        after = np.asarray(logits(params, jnp.asarray(changed)))
        assert np.array_equal(after[0, 8], before[0, 8]) == (back > 2), back


@pytest.mark.parametrize("kinds", [(2, 4), (4, 2)], ids=str)
def test_n_grams_at_the_input_and_in_layers_share_one_past(kinds: tuple[int, int]) -> None:
    at_input, in_layers = kinds
    form: dict[str, Any] = {
        "ngram": {"orders": [at_input], "buckets": 50},
        "knowledge": {**HASHED["knowledge"], "orders": [in_layers]},
    }
    model = TMSModel(small_config(**form))
    params = random_params(model)
    cache = model.empty_cache(1, 12)
    assert cache.input.recent_BJ is not None and cache.input.recent_BJ.shape == (1, 3)
    ids = jnp.asarray(np.random.default_rng(0).integers(64, size=(1, 12), dtype=np.int32))
    whole = jax.jit(model.logits)(params, ids)
    extend = jax.jit(model.extend)
    for t in range(12):
        one = ids[:, t : t + 1]
        scores, cache = extend(params, one, positions_BT=jnp.full((1, 1), t), cache=cache)
        np.testing.assert_allclose(scores[:, 0], whole[:, t], atol=1e-5)
