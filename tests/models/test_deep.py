"""Mixture of depths in the model: what the chosen tokens get, what it costs, what it teaches."""

from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.config import AGIConfig, UserError
from rtdlm.models import TMSModel
from rtdlm.models.block import Block, BlockInput, Stream
from rtdlm.models.cost import forward_flops_per_token
from rtdlm.models.deep import run_deep
from rtdlm.models.layers import layer_plans
from rtdlm.modules.attention import KINDS, rotation
from rtdlm.modules.depths import Chosen, DepthRouter
from rtdlm.training.knobs import Knobs
from rtdlm.training.loss import loss_sums, loss_terms
from tests.models.small import HASHED, KEYS, RICH, ROOMY, packed_batch, random_params, small_config

HALF: dict[str, Any] = {"depths": {"capacity": 0.5}}


def objective(model: TMSModel, params: Any, batch: Any) -> tuple[jax.Array, Any]:
    knobs = Knobs.from_config(model.config)
    terms = loss_terms(batch.weights, knobs, scale=jnp.float32(1.0))
    scores = model.batch_scores(params, batch, terms=terms)
    return loss_sums(scores, batch.weights, knobs).objective, scores


def test_the_block_sees_the_chosen_tokens_alone() -> None:
    """Row by row: the block on exactly the chosen tokens, its write times the router's weight."""
    config = small_config(**HALF)
    plan = layer_plans(config)[1]
    assert plan.depth
    batch = packed_batch(config, rows=3)
    x = jnp.asarray(np.random.default_rng(2).normal(size=(3, 12, 16)), jnp.float32)

    def given(positions: Any, segments: Any) -> BlockInput:
        rows = KINDS["gqa"](config.attention).packed(positions, segments)
        turn = rotation(positions, head_dim=config.head_dim, base=10_000.0)
        return BlockInput({"gqa": rows}, turn, (segments > 0).astype(jnp.float32))

    whole = given(jnp.asarray(batch.positions), jnp.asarray(batch.segment_ids))

    def deep(x: jax.Array) -> tuple[jax.Array, Chosen]:
        stream, _ = run_deep(
            Block(config, plan), config, plan, Stream(x), whole, None, training=True
        )
        again = DepthRouter(name="depths")(x, whole.weights_BT, capacity=6, training=True)
        return stream.x_BTD, again

    run = hk.without_apply_rng(hk.transform(deep))
    shapes = jax.eval_shape(run.init, jax.random.key(0), x)
    rng = np.random.default_rng(3)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) / 3), shapes)
    for name in list(params):  # the second router has the first one's weights
        if name.startswith("depths_1"):
            params[name] = params[name.replace("depths_1", "depths")]
    found, chosen = jax.jit(run.apply)(params, x)
    block = hk.without_apply_rng(
        hk.transform(lambda x, given: Block(config, plan)(Stream(x), given, None)[0].x_BTD)
    )
    expected = np.array(x)
    for row in range(3):
        token = np.flatnonzero(np.asarray(chosen.taken_BT)[row])
        assert 0 < len(token) <= 6
        own = given(batch.positions[row, token][None], batch.segment_ids[row, token][None])
        alone = block.apply(params, x[row, token][None], own)[0] - x[row, token]
        expected[row, token] += np.asarray(chosen.weight_BT)[row, token, None] * np.asarray(alone)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    "form",
    [{}, {"experts": ROOMY}, RICH, KEYS, HASHED],
    ids=["dense", "experts", "rich", "product keys", "hashed"],
)
def test_every_parameter_of_a_chosen_layer_gets_a_gradient(form: dict[str, Any]) -> None:
    model = TMSModel(small_config(**HALF, **form))
    params, batch = random_params(model), packed_batch(model.config, rows=3)
    slopes = jax.jit(jax.grad(lambda p: objective(model, p, batch)[0]))(params)
    for path, leaves in slopes.items():
        for name, leaf in leaves.items():
            assert np.asarray(leaf).any(), (path, name)


def test_operations_fall_as_declared() -> None:
    """Of the objective, forward, by the compiler's count: one token in eight in every second."""
    wide: dict[str, Any] = {
        "vocab_size": 128, "d_model": 64, "num_heads": 4, "num_layers": 4, "d_ff": 256,
        "max_seq_len": 64, "layer_unroll": 4,
    }  # fmt: skip

    def counted(**form: Any) -> tuple[float, int]:
        model = TMSModel(AGIConfig.from_dict(wide | form))
        batch = packed_batch(model.config, rows=2)
        run = jax.jit(lambda p: objective(model, p, batch)[0])
        flops = run.lower(model.shapes).compile().cost_analysis()["flops"]
        return flops / (2 * 64), forward_flops_per_token(model.config, length=64)

    dense, dense_formula = counted()
    deep, deep_formula = counted(depths={"capacity": 0.125})
    assert (dense - deep) / (dense_formula - deep_formula) == pytest.approx(1.0, abs=0.05)


def test_evaluation_does_not_look_ahead_and_training_does() -> None:
    model = TMSModel(small_config(**HALF))
    params, batch = random_params(model), packed_batch(model.config, rows=2)
    batch = batch._replace(
        segment_ids=np.ones_like(batch.segment_ids), weights=np.ones_like(batch.weights)
    )
    changed = batch._replace(input_ids=batch.input_ids.copy())
    changed.input_ids[:, 6:] = (changed.input_ids[:, 6:] + 7) % 64
    judge = jax.jit(lambda batch: model.batch_scores(params, batch).tokens.nll)
    train = jax.jit(lambda batch: objective(model, params, batch)[1].tokens.nll)
    np.testing.assert_array_equal(judge(batch)[:, :6], judge(changed)[:, :6])
    assert (np.asarray(train(batch))[:, :6] != np.asarray(train(changed))[:, :6]).any()


@pytest.mark.parametrize(
    ("form", "sentence"),
    [
        ({"depths": {"capacity": 1.5}}, "depths.capacity=1.5 is outside (0, 1)"),
        ({"depths": {"every": 2}}, "depths.every=2 has no effect without depths.capacity"),
        ({"depths": {"capacity": 0.5, "every": 9}}, "depths.every=9 exceeds num_layers=4"),
        (
            {"depths": {"capacity": 0.5}, "attention_type": "sliding"},
            "attention_type='sliding' cannot be combined with depths.capacity yet",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(form: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        AGIConfig().replace(**form)
    assert sentence in str(caught.value)
