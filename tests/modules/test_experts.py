"""Routing as literal tables, and sparse experts against a loop over tokens."""

from collections.abc import Callable
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.config import ExpertsConfig
from rtdlm.modules import experts
from rtdlm.modules.experts import ExpertStatistics, SparseExperts
from rtdlm.modules.primitives import TILE, grouped_product, most_tiles, tile_pairs
from tests.modules import reference

route = jax.jit(experts.route, static_argnames=("top_k", "capacity"))

D, F = 6, 10
A, B = np.exp([1.0, 0.0]) / np.exp([1.0, 0.0]).sum()  # shares of a choice one logit ahead


def test_queues_drops_and_gates_are_these_tables() -> None:
    """Two places an expert. Token 2 finds expert 0 full, token 4 expert 1; token 3 is padding."""
    logits = [[3, 2, 0], [3, 0, 2], [3, 2, 0], [9, 9, 9], [0, 3, 2]]
    routing, statistics = route(
        jnp.asarray([logits], jnp.float32),
        jnp.asarray([[1, 0.5, 1, 0, 2]], jnp.float32),
        top_k=2,
        capacity=2,
    )
    assert routing.expert_BTJ[0].tolist() == [[0, 1], [0, 2], [0, 1], [0, 1], [1, 2]]
    assert routing.slot_BTJ[0].tolist() == [[0, 0], [1, 0], [2, 1], [2, 2], [2, 1]]
    gates = [[A, B], [A, B], [0, B], [0, 0], [0, B]]
    np.testing.assert_allclose(routing.gate_BTJ[0], gates, rtol=1e-6)
    np.testing.assert_allclose(statistics.usage_E, [3 / 8, 3 / 8, 2 / 8])
    assert float(statistics.dropped) == 2 / 8


def test_every_row_has_queues_of_its_own() -> None:
    logits = jnp.zeros((3, 4, 2))
    routing, statistics = route(logits, jnp.ones((3, 4)), top_k=1, capacity=3)
    assert routing.slot_BTJ[:, :, 0].tolist() == [[0, 1, 2, 3]] * 3
    assert float(statistics.dropped) == pytest.approx(1 / 4)


def test_a_single_choice_keeps_its_probability() -> None:
    """Rescaled to one it would be a constant and the loss could not teach the router."""
    routing, _ = route(jnp.asarray([[[1.0, 0.0]]]), jnp.ones((1, 1)), top_k=1, capacity=1)
    assert float(routing.gate_BTJ[0, 0, 0]) == pytest.approx(A)


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_losses_equal_the_papers_formulas(top_k: int) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 7, 5)).astype(np.float32)
    weights = (rng.random((2, 7)) < 0.7).astype(np.float32)
    _, statistics = route(
        jnp.asarray(logits), jnp.asarray(weights), top_k=top_k, capacity=7 * top_k
    )
    tokens = logits[weights > 0].astype(np.float64)
    p = np.exp(tokens) / np.exp(tokens).sum(-1, keepdims=True)
    chosen = np.argsort(-p, axis=-1)[:, :top_k]
    usage = np.bincount(chosen.ravel(), minlength=5) / chosen.size
    np.testing.assert_allclose(statistics.usage_E, usage, rtol=1e-6)
    assert float(statistics.balance) == pytest.approx(5 * (usage * p.mean(0)).sum(), rel=1e-5)
    partition = np.log(np.exp(tokens).sum(-1))
    assert float(statistics.z) == pytest.approx((partition**2).mean(), rel=1e-5)
    assert float(statistics.dropped) == 0.0


@pytest.mark.parametrize(("num_experts", "top_k"), [(4, 1), (8, 2), (6, 3)])
def test_balance_is_one_when_even_and_e_over_k_when_collapsed(num_experts: int, top_k: int) -> None:
    def balance(logits: np.ndarray) -> float:
        logits_BTE = jnp.asarray(logits[None], jnp.float32)
        _, statistics = route(logits_BTE, jnp.ones((1, len(logits))), top_k=top_k, capacity=1)
        return float(statistics.balance)

    # Token t prefers experts t, t + 1, ..., t + k - 1.
    even = 30.0 * sum(np.roll(np.eye(num_experts), shift, axis=1) for shift in range(top_k))
    assert balance(even) == pytest.approx(1.0, rel=1e-5)
    collapsed = np.tile(30.0 * (np.arange(num_experts) < top_k), (9, 1))
    assert balance(collapsed) == pytest.approx(num_experts / top_k, rel=1e-5)


def test_balance_pushes_tokens_away_from_the_crowded_expert() -> None:
    logits = jnp.asarray([[[1.0, 0.0, 0.0]] * 4])

    def balance(logits_BTE: jax.Array) -> jax.Array:
        return route(logits_BTE, jnp.ones((1, 4)), top_k=1, capacity=4)[1].balance

    gradient = jax.jit(jax.grad(balance))(logits)
    assert (np.sign(gradient[0]) == [[1, -1, -1]] * 4).all()


def test_an_assignment_depends_on_earlier_tokens_alone() -> None:
    rng = np.random.default_rng(1)
    logits, other = rng.normal(size=(2, 1, 16, 4)).astype(np.float32)
    weights = jnp.asarray((rng.random((1, 16)) < 0.8), jnp.float32)
    before, statistics = route(jnp.asarray(logits), weights, top_k=2, capacity=3)
    assert float(statistics.dropped) > 0.2
    for t in range(1, 16):
        changed = np.where(np.arange(16)[None, :, None] < t, logits, other)
        after, _ = route(jnp.asarray(changed), weights, top_k=2, capacity=3)
        for then, now in zip(before, after, strict=True):
            np.testing.assert_array_equal(then[:, :t], now[:, :t])


# ------------------------------------------------------------------------------ the whole layer


def layer(
    **config: Any,
) -> tuple[hk.Transformed, Callable[..., tuple[jax.Array, ExpertStatistics]]]:
    def forward(x_BTD: jax.Array, weights_BT: jax.Array) -> tuple[jax.Array, ExpertStatistics]:
        module = SparseExperts(ExpertsConfig(**config), d_ff=F, out_scale=1.0)
        return module(x_BTD, weights_BT=weights_BT)

    transformed = hk.without_apply_rng(hk.transform(forward))
    return transformed, jax.jit(transformed.apply)


def random_weights(transformed: hk.Transformed, x: jax.Array, real: jax.Array) -> Any:
    rng = np.random.default_rng(2)
    shapes = jax.eval_shape(transformed.init, jax.random.key(0), x, real)
    return jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), shapes)


def exact_weights(params: Any) -> dict[str, np.ndarray]:
    return {
        (path if name == "w" else name).removeprefix("experts/"): np.asarray(leaf, np.float64)
        for path, leaves in params.items()
        for name, leaf in leaves.items()
    }


@pytest.fixture(scope="module")
def tokens() -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(3)
    x = jnp.asarray(rng.normal(size=(2, 9, D)), jnp.float32)
    return x, jnp.asarray(np.arange(9)[None] < [[9], [6]], jnp.float32)


DISPATCHES: dict[str, dict[str, Any]] = {
    "room": {"capacity_factor": 100.0},
    "even": {"capacity_factor": 1.0},
    "tight": {"capacity_factor": 0.4},
    "dropless": {"dispatch": "dropless"},
    "dropless, sigmoid": {
        "dispatch": "dropless", "scores": "sigmoid", "temperature": 2.0, "bias_rate": 0.1,
    },
}  # fmt: skip


@pytest.mark.parametrize("top_k", [1, 2, 3])
@pytest.mark.parametrize("dispatch", DISPATCHES)
def test_equals_a_loop_over_tokens(
    tokens: tuple[jax.Array, jax.Array], top_k: int, dispatch: str
) -> None:
    x, real = tokens
    form = {"num_experts": 4, "top_k": top_k, **DISPATCHES[dispatch]}
    config = ExpertsConfig(**form)
    dropless = config.dispatch == "dropless"
    transformed, apply = layer(**form)
    params = random_weights(transformed, x, real)
    y, statistics = apply(params, x, real)
    for row in range(2):
        expected = reference.experts(
            np.asarray(x[row], np.float64),
            exact_weights(params),
            real=np.asarray(real[row]) > 0,
            top_k=top_k,
            capacity=9 if dropless else config.capacity(9),
            sigmoid=config.scores == "sigmoid",
            temperature=config.temperature or 1.0,
        )
        np.testing.assert_allclose(y[row], expected, rtol=1e-5, atol=1e-5)
    assert (float(statistics.dropped) == 0.0) == (dropless or dispatch == "room")
    assert not y[1, 6:].any(), "padding gets nothing"


@pytest.mark.parametrize("dispatch", ["room", "dropless"])
def test_gradients_with_room_equal_those_of_experts_that_all_compute(
    tokens: tuple[jax.Array, jax.Array], dispatch: str
) -> None:
    x, real = tokens
    transformed, apply = layer(num_experts=4, top_k=2, **DISPATCHES[dispatch])
    params = random_weights(transformed, x, real)

    def dense(params: Any, x: jax.Array) -> jax.Array:
        w = {path.removeprefix("experts/"): leaf["w"] for path, leaf in params.items()}
        p = jax.nn.softmax(jnp.einsum("BTD,DE->BTE", x, w["router"]))
        second = jnp.sort(p, axis=-1)[..., -2:-1]
        share = jnp.where(p >= second, p, 0.0) * real[..., None]
        share = share / jnp.maximum(jnp.sum(share, axis=-1, keepdims=True), 1e-9)
        inner = jax.nn.silu(jnp.einsum("BTD,EDF->BTEF", x, w["gate"]))
        inner = inner * jnp.einsum("BTD,EDF->BTEF", x, w["up"])
        return jnp.einsum("BTEF,EFD,BTE->BTD", inner, w["down"], share)

    def total(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
        weights = jnp.asarray(np.random.default_rng(4).normal(size=x.shape), jnp.float32)
        return lambda params, x: jnp.sum(function(params, x) * weights)

    sparse = lambda params, x: apply(params, x, real)[0]  # noqa: E731
    got = jax.jit(jax.grad(total(sparse), argnums=(0, 1)))(params, x)
    expected = jax.jit(jax.grad(total(dense), argnums=(0, 1)))(params, x)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert np.asarray(other).any()
        largest = float(np.abs(other).max())
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6 * largest)


@pytest.mark.parametrize("top_k", [1, 2])
def test_the_output_teaches_the_router(tokens: tuple[jax.Array, jax.Array], top_k: int) -> None:
    x, real = tokens
    transformed, apply = layer(num_experts=4, top_k=top_k)
    params = random_weights(transformed, x, real)
    gradient = jax.jit(jax.grad(lambda params: jnp.sum(apply(params, x, real)[0])))(params)
    assert np.abs(gradient["experts/router"]["w"]).min() > 1e-6


def test_the_router_decides_in_float32_whatever_the_activations_are(
    tokens: tuple[jax.Array, jax.Array],
) -> None:
    x, real = tokens
    transformed, apply = layer(num_experts=4, top_k=2, capacity_factor=100.0)
    params = random_weights(transformed, x, real)
    rough = x.astype(jnp.bfloat16)
    y, statistics = apply(params, rough, real)
    assert y.dtype == jnp.bfloat16
    same, exact = apply(params, rough.astype(jnp.float32), real)
    np.testing.assert_array_equal(statistics.usage_E, exact.usage_E)
    assert float(statistics.z) == pytest.approx(float(exact.z), rel=1e-6)
    np.testing.assert_allclose(y.astype(jnp.float32), same, rtol=0.05, atol=0.5)


def noisy(**form: Any) -> hk.Transformed:
    def forward(x_BTD: jax.Array, weights_BT: jax.Array) -> jax.Array:
        config = ExpertsConfig(dispatch="dropless", **form)
        return SparseExperts(config, d_ff=F, out_scale=1.0)(x_BTD, weights_BT=weights_BT)[0]

    return hk.transform(forward)


def test_jitter_multiplies_what_the_router_sees_and_nothing_else() -> None:
    """Two experts of which both serve: their shares tell by how much, evenly in 1 +- 0.3."""
    x, real = jnp.ones((1, 400, D)), jnp.ones((1, 400))
    module = noisy(num_experts=2, top_k=2, jitter=0.3)
    params = random_weights(module, x, real)

    def run(weight: float, key: jax.Array | None) -> np.ndarray:
        """Where the first feature of each token is all that the router asks for."""
        router = jnp.zeros((D, 2)).at[0, 0].set(weight)
        own = params | {"experts/router": {"w": router}}
        return np.asarray(module.apply(own, key, x, real), np.float64)[0]

    first, second = run(60.0, None)[0], run(-60.0, None)[0]
    apart = first - second
    share_T = (run(1.0, jax.random.key(0)) - second) @ apart / (apart @ apart)
    factor_T = np.log(share_T / (1 - share_T))
    assert factor_T.min() > 0.699 and factor_T.max() < 1.301
    assert factor_T.mean() == pytest.approx(1.0, abs=0.03)
    assert factor_T.std() == pytest.approx(0.3 / 3**0.5, rel=0.1)
    still = 1 / (1 + np.exp(-1.0))
    np.testing.assert_allclose(run(1.0, None)[0], second + still * apart, rtol=1e-4)


def test_dropout_leaves_the_mean_and_is_off_without_a_key(
    tokens: tuple[jax.Array, jax.Array],
) -> None:
    x, real = tokens
    module = noisy(num_experts=4, top_k=2, dropout=0.25)
    params = random_weights(module, x, real)
    plain = noisy(num_experts=4, top_k=2).apply(params, None, x, real)
    np.testing.assert_array_equal(module.apply(params, None, x, real), plain)
    keys = jax.random.split(jax.random.key(0), 300)
    drawn = np.asarray(jax.vmap(lambda key: module.apply(params, key, x, real))(keys))
    deviation = drawn.std(0)
    assert (deviation[np.asarray(real) > 0] > 0).all()
    assert (np.abs(drawn.mean(0) - plain) <= 5 * deviation / 300**0.5).all()


def test_a_bias_chooses_and_moves_no_gate() -> None:
    """Its gradient is the load less the mean load, whatever the loss is."""
    logits = jnp.asarray([[[2.0, 1.0, 0.0], [2.0, 0.0, 1.0], [3.0, 0.0, 1.0]]])

    def gates(bias_E: jax.Array) -> tuple[jax.Array, jax.Array]:
        routing, _ = experts.route(
            logits, jnp.ones((1, 3)), top_k=1, capacity=None, scores="sigmoid", bias_E=bias_E
        )
        return 7.0 * jnp.sum(routing.gate_BTJ), routing.expert_BTJ

    for bias, chosen, excess in (
        ([0.0, 0.0, 0.0], [0, 0, 0], [2.0, -1.0, -1.0]),
        ([0.0, 0.2, 0.0], [1, 0, 0], [1.0, 0.0, -1.0]),
    ):
        (total, found), slope = jax.value_and_grad(gates, has_aux=True)(jnp.asarray(bias))
        assert found[0, :, 0].tolist() == chosen
        sigmoids = 1 / (1 + np.exp(-np.asarray(logits[0])[np.arange(3), chosen]))
        assert float(total) == pytest.approx(7.0 * sigmoids.sum())
        assert slope.tolist() == excess


def test_tiles_hold_every_choice_however_uneven() -> None:
    """All choices of one kind, one of each other, and some of none."""
    for kinds, tile, choices in (
        (4, 3, [0, 0, 0, 0, 0, 0, 0, 1, 2, 3]),
        (3, 4, [1, 3, 1, 3, 2, 2]),
    ):
        chosen = np.array(choices).reshape(1, -1, 2)
        tiling = tile_pairs(jnp.asarray(chosen), kinds=kinds, tile=tile)
        slots = np.asarray(tiling.slot_RJ[0])
        for pair, kind in enumerate(choices):
            if kind == kinds:
                assert slots[pair] == tiling.pair_RS.shape[1]
                continue
            assert int(tiling.kind_RU[0, slots[pair] // tile]) == kind
            assert int(tiling.pair_RS[0, slots[pair]]) == pair
            assert int(tiling.token_RS[0, slots[pair]]) == pair // 2
        real = [kind for kind in choices if kind < kinds]
        assert np.sum(np.asarray(tiling.pair_RS) < len(choices)) == len(real)


def test_dropless_operations_are_those_of_its_tiles() -> None:
    """The compiler counts a loop's body once: times the tiles, k / 8 and the padding."""
    x = jax.ShapeDtypeStruct((8, 512, 16), jnp.float32)
    w = jax.ShapeDtypeStruct((8, 16, 64), jnp.float32)
    tiles = most_tiles(2 * 4096, kinds=8, tile=TILE)
    rows = jax.ShapeDtypeStruct((tiles, TILE, 16), jnp.float32)
    numbers = jax.ShapeDtypeStruct((tiles,), jnp.int32)

    def counted(function: Callable[..., jax.Array], *given: Any) -> float:
        return jax.jit(function).lower(*given).compile().cost_analysis()["flops"]

    every = counted(lambda x, w: jnp.einsum("btd,edf->ebtf", x, w), x, w)
    body = counted(grouped_product, rows, w, numbers)
    assert tiles * body / every == pytest.approx(2 / 8 * (1 + 8 * TILE / 8192), rel=0.05)


def test_operations_fall_with_the_share_of_experts_used() -> None:
    """By the compiler's own count: k of 8 experts cost k / 8 of all of them."""
    x = jax.ShapeDtypeStruct((1, 64, 32), jnp.float32)
    real = jax.ShapeDtypeStruct((1, 64), jnp.float32)

    def operations(top_k: int) -> float:
        config = ExpertsConfig(num_experts=8, top_k=top_k, capacity_factor=1.0)

        def forward(x_BTD: jax.Array, weights_BT: jax.Array) -> jax.Array:
            return SparseExperts(config, d_ff=256, out_scale=1.0)(x_BTD, weights_BT=weights_BT)[0]

        transformed = hk.without_apply_rng(hk.transform(forward))
        shapes = jax.eval_shape(transformed.init, jax.random.key(0), x, real)
        compiled = jax.jit(transformed.apply).lower(shapes, x, real).compile()
        return compiled.cost_analysis()["flops"]

    every = operations(8)
    assert operations(1) / every == pytest.approx(1 / 8, rel=0.05)
    assert operations(2) / every == pytest.approx(2 / 8, rel=0.05)


def test_capacity_is_this_table() -> None:
    """(experts, choices, factor, length) -> places; never more than a row has tokens."""
    table = {
        (4, 2, 1.0, 12): 6,
        (4, 2, 1.25, 12): 8,
        (4, 2, 100.0, 12): 12,
        (8, 1, 1.0, 12): 2,
        (8, 2, None, 1): 1,
        (8, None, 1.0, 32): 8,
    }
    for (num_experts, top_k, factor, length), places in table.items():
        config = ExpertsConfig(num_experts=num_experts, top_k=top_k, capacity_factor=factor)
        assert config.capacity(length) == places, (num_experts, top_k, factor, length)
