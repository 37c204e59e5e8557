"""A core that is run as often as a policy says: what training sees is what inference does."""

from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.config import AGIConfig
from rtdlm.models import TMSModel, core
from rtdlm.models.decoder import Decoder
from rtdlm.models.passing import Features
from rtdlm.models.tms import Params
from rtdlm.training.knobs import Knobs
from rtdlm.training.loss import loss_sums, loss_terms
from tests.models.small import CONTROLLED, packed_batch, random_params, small_config


def controlled(**overrides: Any) -> AGIConfig:
    own = CONTROLLED["controller"] | overrides.pop("controller", {})
    return small_config(**{**CONTROLLED, "controller": own, **overrides})


def features(config: AGIConfig, params: Params, *, training: bool, rows: int = 4) -> Features:
    """What stands before the output table, of one batch; every row's price is the middle one."""
    batch = packed_batch(config, rows=rows)

    class Opened(Decoder):
        @hk.name_like("__call__")
        def features(self) -> Features:
            rows = map(jnp.asarray, (batch.input_ids, batch.positions, batch.segment_ids))
            return self._rows(*rows, training=training)

    opened = lambda: Opened(config, dtype=jnp.dtype("float32"), name="decoder").features()  # noqa: E731
    apply = hk.transform(opened).apply
    return jax.jit(lambda params: apply(params, None))(params)


KEY = jax.random.key(0)
MIDDLE = {"price": 0.1, "lowest_price": 0.05, "highest_price": 0.2}


@pytest.mark.parametrize("overrides", [{}, {"position_encoding": "alibi", "value_residual": True}])
def test_up_to_its_own_exit_a_token_is_in_training_what_it_is_at_inference(
    overrides: dict[str, Any],
) -> None:
    config = controlled(controller=MIDDLE, **overrides)
    params = random_params(TMSModel(config))
    real = packed_batch(config, rows=4).segment_ids > 0
    whole = features(config, params, training=True).exits
    own = features(config, params, training=False)
    assert whole is not None and own.spent is not None
    steps = np.asarray(own.spent.steps_BT).astype(int)
    assert set(steps[real]) == {1, 2, 3}
    np.testing.assert_array_equal(whole.steps_BT[real], steps[real])
    assert not steps[~real].any(), "padding is not run"
    last_KBT = np.maximum(steps - 1, 0)[None]
    chosen = np.take_along_axis(np.asarray(whole.x_KBTD), last_KBT[..., None], axis=0)[0]
    np.testing.assert_allclose(own.x_BTD[real], chosen[real], atol=2e-5)
    sure = np.take_along_axis(np.asarray(whole.confidence_KBT), last_KBT, axis=0)[0]
    np.testing.assert_allclose(own.spent.confidence_BT[real], sure[real], atol=2e-5)


@pytest.mark.parametrize("tiles", [3, 16])
def test_tiles_change_nothing(tiles: int, monkeypatch: pytest.MonkeyPatch) -> None:
    config = controlled()
    params = random_params(TMSModel(config))
    monkeypatch.setattr(core, "TILES", tiles)
    assert 1 <= core.tile_of(config.max_seq_len) < config.max_seq_len
    short = features(config, params, training=False)
    monkeypatch.setattr(core, "TILES", 1)
    whole = features(config, params, training=False)
    assert short.spent is not None and whole.spent is not None
    np.testing.assert_array_equal(short.spent.steps_BT, whole.spent.steps_BT)
    real = packed_batch(config, rows=4).segment_ids > 0
    np.testing.assert_allclose(short.x_BTD[real], whole.x_BTD[real], atol=1e-5)


def test_the_thorough_strategy_takes_every_step() -> None:
    config = controlled(controller={"price": None}, controller_strategy="thorough")
    found = features(config, random_params(TMSModel(config)), training=False).spent
    assert found is not None
    real = packed_batch(config, rows=4).segment_ids > 0
    np.testing.assert_array_equal(found.steps_BT, 3.0 * real)


def test_a_strategy_has_a_price_of_its_own() -> None:
    """The parameter holds their logs, and changes what is run without compiling anew."""
    found = {}
    for strategy in ("fast", "balanced"):
        config = controlled(controller={"price": None}, controller_strategy=strategy)
        params = random_params(TMSModel(config))
        params["decoder/core"] = {"log_prices": jnp.log(jnp.asarray([30.0, 1e-3]))}
        spent = features(config, params, training=False).spent
        assert spent is not None
        found[strategy] = spent
        priced = controlled(
            controller={"price": {"fast": 30.0, "balanced": 1e-3}[strategy]},
            controller_strategy=strategy,
        )
        same = features(priced, params, training=False).spent
        assert same is not None
        np.testing.assert_array_equal(spent.steps_BT, same.steps_BT)
    assert not np.array_equal(found["fast"].steps_BT, found["balanced"].steps_BT)


def slopes_of(
    config: AGIConfig, *, params: Any = None, key: jax.Array | None = KEY, policy: bool = True
) -> Params:
    """The gradient of one batch's objective; `policy` includes the losses of the policy."""
    model = TMSModel(config)
    params = random_params(model) if params is None else params
    batch, knobs = packed_batch(config, rows=2), Knobs.from_config(config)

    def objective(params: Params) -> jax.Array:
        terms = loss_terms(batch.weights, knobs, scale=jnp.float32(1))
        scores = model.batch_scores(params, batch, terms=terms, key=key)
        assert scores.objective is not None
        return loss_sums(scores, batch.weights, knobs).objective if policy else scores.objective

    return jax.jit(jax.grad(objective))(params)


def test_every_parameter_of_layers_and_policy_learns() -> None:
    slopes = slopes_of(controlled())
    own = {path: leaves for path, leaves in slopes.items() if "/core" in path}
    assert len(own) == 21
    for path, leaves in own.items():
        for name, leaf in leaves.items():
            assert np.isfinite(leaf).all(), (path, name)
            assert np.asarray(leaf).any() == (name != "log_prices"), (path, name)


def test_the_policy_moves_the_policy_alone() -> None:
    """Its losses have no gradient for layers: with them or without, those learn the same."""
    with_policy, without = (
        slopes_of(controlled(), key=None, policy=policy) for policy in (True, False)
    )
    for path, leaves in without.items():
        for name, leaf in leaves.items():
            same = np.allclose(leaf, with_policy[path][name], rtol=1e-4, atol=1e-5)
            assert same == ("controller" not in path), (path, name)
            assert "controller" not in path or not np.asarray(leaf).any()


def test_without_a_controller_nothing_is_made_of_it() -> None:
    model = TMSModel(small_config())
    assert not [path for path in model.shapes if "core" in path]
    assert model.empty_cache(1, 4).core is None
    ids = jnp.ones((1, 4), jnp.int32)
    assert jax.eval_shape(model.scores, random_params(model), ids, ids).spent is None


def test_memory_stands_before_a_core() -> None:
    """Rows of three segments: decoding gives what reading them whole does, and training runs."""
    config = controlled(
        memory={"segment": 4, "stm_window": 4, "recurrent": "gated_delta", "every": 2}
    )
    model = TMSModel(config)
    params, batch = random_params(model), packed_batch(config, rows=2)
    ids = jnp.asarray(batch.input_ids)
    whole = jax.jit(model.logits)(params, ids)
    positions = jnp.broadcast_to(jnp.arange(12)[None], ids.shape)
    extend = jax.jit(
        lambda params, cache: model.extend(params, ids, positions_BT=positions, cache=cache)
    )
    np.testing.assert_allclose(extend(params, model.empty_cache(2, 12))[0], whole, atol=2e-5)
    knobs = Knobs.from_config(config)
    terms = loss_terms(batch.weights, knobs, scale=jnp.float32(1))
    scores = jax.jit(lambda params: model.batch_scores(params, batch, terms=terms))(params)
    assert scores.pondered is not None
    assert scores.pondered.steps_BT.shape == ids.shape
    assert set(np.unique(scores.pondered.steps_BT)) <= {1.0, 2.0, 3.0}
