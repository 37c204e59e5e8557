"""Which tokens a layer works on: the router's largest in training, the predictor's elsewhere."""

from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.modules.depths import Chosen, DepthRouter, gather, scatter

BATCH, LENGTH, WIDTH, CAPACITY = 3, 10, 8, 4


def inputs() -> tuple[jax.Array, jax.Array]:
    """Tokens, and weights with padding: two rows' ends, of which one leaves fewer than chosen."""
    rng = np.random.default_rng(0)
    weights = np.ones((BATCH, LENGTH), np.float32)
    weights[1, 7:] = 0
    weights[2, 3:] = 0
    return jnp.asarray(rng.normal(size=(BATCH, LENGTH, WIDTH)), jnp.float32), jnp.asarray(weights)


def router(training: bool) -> hk.Transformed:
    def choose(x: jax.Array, weights: jax.Array) -> Chosen:
        return DepthRouter(name="depths")(x, weights, capacity=CAPACITY, training=training)

    return hk.without_apply_rng(hk.transform(choose))


@pytest.fixture(scope="module")
def params() -> Any:
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(router(True).init, jax.random.key(0), *inputs())
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), shapes)


def scores(params: Any) -> tuple[np.ndarray, np.ndarray]:
    """The router's and the predictor's, in NumPy."""
    x = np.asarray(inputs()[0], np.float64)
    weight = {path: np.asarray(leaf["w"], np.float64) for path, leaf in params.items()}
    hidden = np.maximum(x @ weight["depths/predictor_in"], 0)
    bias = np.asarray(params["depths/predictor_out"]["b"], np.float64)
    likely = (hidden @ weight["depths/predictor_out"] + bias)[..., 0]
    return (x @ weight["depths/router"])[..., 0], likely


def test_training_chooses_the_largest_of_the_real_tokens_in_order(params: Any) -> None:
    x, weights = inputs()
    chosen = jax.jit(router(True).apply)(params, x, weights)
    found, likely = scores(params)
    np.testing.assert_allclose(chosen.weight_BT, 1 / (1 + np.exp(-found)), rtol=1e-5)
    taken = np.zeros((BATCH, LENGTH), bool)
    for row in range(BATCH):
        real = np.flatnonzero(np.asarray(weights)[row])
        best = sorted(real, key=lambda t, row=row: -found[row, t])[:CAPACITY]
        taken[row, best] = True
        expected = [*sorted(best), *[LENGTH] * (CAPACITY - len(best))]
        assert np.asarray(chosen.token_BC)[row].tolist() == expected
    assert np.asarray(chosen.taken_BT).tolist() == taken.tolist()
    real = np.asarray(weights) > 0
    p = 1 / (1 + np.exp(-likely))
    entropy = -np.where(taken, np.log(p), np.log(1 - p))[real].mean()
    statistics = chosen.statistics
    assert float(statistics.predictor) == pytest.approx(entropy, rel=1e-4)
    assert float(statistics.agreement) == pytest.approx(((likely > 0) == taken)[real].mean())
    assert float(statistics.share) == pytest.approx(taken.sum() / real.sum())


def test_elsewhere_the_predictor_chooses_from_the_token_alone(params: Any) -> None:
    x, weights = inputs()
    choose = jax.jit(router(False).apply)
    chosen = choose(params, x, weights)
    expected = (scores(params)[1] > 0) & (np.asarray(weights) > 0)
    assert np.asarray(chosen.taken_BT).tolist() == expected.tolist()
    assert 0 < expected.sum() < expected.size
    other = choose(params, x.at[:, 5:].set(9.0), weights)
    assert np.asarray(other.taken_BT)[:, :5].tolist() == expected[:, :5].tolist()


def test_what_is_gathered_is_scattered_back_with_its_gradient(params: Any) -> None:
    x, weights = inputs()
    chosen = jax.jit(router(True).apply)(params, x, weights)
    short = np.asarray(gather(x, chosen))
    for row, slot in np.ndindex(BATCH, CAPACITY):
        token = int(chosen.token_BC[row, slot])
        expected = np.zeros(WIDTH) if token == LENGTH else np.asarray(x)[row, token]
        assert short[row, slot].tolist() == expected.tolist()
    back = scatter(gather(x, chosen), chosen)
    expected = jnp.where(chosen.taken_BT[..., None], x, 0.0)
    np.testing.assert_array_equal(back, expected)
    slope = jax.grad(lambda x: jnp.sum(jnp.sin(scatter(gather(x, chosen), chosen))))(x)
    plain = jax.grad(lambda x: jnp.sum(jnp.sin(jnp.where(chosen.taken_BT[..., None], x, 0))))(x)
    np.testing.assert_allclose(slope, plain, atol=1e-6)


def test_the_predictor_learns_from_its_loss_and_moves_nothing_else(params: Any) -> None:
    x, weights = inputs()

    def loss(params: Any, x: jax.Array) -> jax.Array:
        return router(True).apply(params, x, weights).statistics.predictor

    by_params, by_x = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, x)
    assert not np.asarray(by_x).any()
    assert not np.asarray(by_params["depths/router"]["w"]).any()
    for name in ("predictor_in", "predictor_out"):
        assert np.asarray(by_params[f"depths/{name}"]["w"]).any()
