"""Modules that a core's tokens call: as in training so in use, at the cost that is declared."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.config import AGIConfig
from rtdlm.models import TMSModel, core
from rtdlm.models.called import straight_through
from rtdlm.models.contracts import call_costs, contract_table, step_cost
from rtdlm.models.core_state import AllExits
from rtdlm.models.cost import count_parameters
from rtdlm.models.exits import exit_losses
from rtdlm.modules.controller.controller import HIDDEN
from rtdlm.modules.head import LossTerms
from rtdlm.training.knobs import Knobs
from rtdlm.training.loss import loss_terms
from tests.models.small import CALLED, KEYS, packed_batch, random_params, small_config
from tests.models.test_contracts import CORE, WIDE
from tests.models.test_core import MIDDLE, features, slopes_of

SEARCHED: dict[str, Any] = {
    **CALLED,
    "quantum_layers": 0,
    "quantum": {},
    "knowledge": {name: value for name, value in KEYS["knowledge"].items() if name != "every"},
    "controller": CALLED["controller"] | {"calls": ["knowledge"]},
}


def calling(**controller: Any) -> AGIConfig:
    return small_config(**{**CALLED, "controller": CALLED["controller"] | controller})


def chance(logit: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logit))


def real_tokens(config: AGIConfig) -> np.ndarray:
    return np.asarray(packed_batch(config, rows=4).segment_ids) > 0


def test_what_is_called_in_training_is_called_at_inference() -> None:
    config = calling(**MIDDLE)
    params, real = random_params(TMSModel(config)), real_tokens(config)
    whole = features(config, params, training=True).exits
    own = features(config, params, training=False)
    assert whole is not None and own.spent is not None and own.spent.calls_BTM is not None
    steps, calls = np.asarray(own.spent.steps_BT).astype(int), np.asarray(own.spent.calls_BTM)
    for module in range(2):
        assert set(calls[real][:, module]) == {0, 1, 2}
    assert not calls[~real].any()
    assert (calls <= np.maximum(steps - 1, 0)[..., None]).all(), "nobody chose for the first step"
    assert whole.calls_BT is not None
    np.testing.assert_array_equal(whole.calls_BT[real], calls[real].sum(-1))
    last_KBT = np.maximum(steps - 1, 0)[None]
    chosen = np.take_along_axis(np.asarray(whole.x_KBTD), last_KBT[..., None], axis=0)[0]
    np.testing.assert_allclose(own.x_BTD[real], chosen[real], atol=2e-5)


@pytest.mark.parametrize("form", [CALLED, SEARCHED], ids=["hashed, circuit", "product keys"])
def test_tiles_change_nothing(form: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_config(**form)
    params, real = random_params(TMSModel(config)), real_tokens(config)
    found = []
    for tiles in (1, 5):
        monkeypatch.setattr(core, "TILES", tiles)
        found.append(features(config, params, training=False))
    whole, tiled = found
    assert whole.spent is not None and tiled.spent is not None
    np.testing.assert_array_equal(whole.spent.calls_BTM, tiled.spent.calls_BTM)
    assert np.asarray(whole.spent.calls_BTM).any()
    np.testing.assert_allclose(whole.x_BTD[real], tiled.x_BTD[real], atol=1e-5)


def test_who_calls_reads_what_the_module_writes() -> None:
    """With the module's output at zero, callers change and tokens before any caller do not."""
    config = calling()
    params, real = random_params(TMSModel(config)), real_tokens(config)
    silent = dict(params)
    for path, name in (("knowledge/value", "w"), ("quantum/output", "w")):
        whole = f"decoder/core/{path}"
        silent[whole] = {**params[whole], name: jnp.zeros_like(params[whole][name])}
    one, other = (features(config, own, training=False) for own in (params, silent))
    assert one.spent is not None and one.spent.calls_BTM is not None
    called_BT = np.asarray(one.spent.calls_BTM).any(-1) & real
    differs_BT = ~np.isclose(one.x_BTD, other.x_BTD, atol=1e-6).all(-1)
    assert differs_BT[called_BT].all()
    earlier_BT = ~np.maximum.accumulate(called_BT, axis=1)
    assert earlier_BT[real].any() and not differs_BT[earlier_BT & real].any()


def test_thorough_calls_everything_in_every_step_but_the_first() -> None:
    config = calling(price=None).replace(controller_strategy="thorough")
    found = features(config, random_params(TMSModel(config)), training=False).spent
    assert found is not None
    expected = 2.0 * np.repeat(real_tokens(config)[..., None], 2, axis=-1)
    np.testing.assert_array_equal(found.calls_BTM, expected)


def test_everything_that_is_called_learns_and_so_do_choices() -> None:
    slopes = slopes_of(calling())
    own = [path for path in slopes if "core/knowledge" in path or "core/quantum" in path]
    assert len(own) == 10
    for path in own:
        for name, leaf in slopes[path].items():
            assert np.isfinite(leaf).all() and np.asarray(leaf).any(), (path, name)
    decide = slopes["decoder/core/controller/decide"]
    assert np.asarray(decide["w"]).any(axis=0).all() and np.asarray(decide["b"]).all()


def test_in_some_rows_everything_is_called_so_that_what_nobody_calls_learns() -> None:
    """With choices that are all closed; without a key no row is such a row."""
    config = calling(even_share=1.0)
    params: Any = random_params(TMSModel(config))
    decide = params["decoder/core/controller/decide"]
    closed = np.asarray(decide["b"]).copy()
    closed[1:] = -100.0
    params["decoder/core/controller/decide"] = {**decide, "b": jnp.asarray(closed)}
    for key, learns in ((None, False), (jax.random.key(0), True)):
        slopes = slopes_of(config, params=params, key=key)
        for path in ("decoder/core/knowledge/value", "decoder/core/quantum/output"):
            assert np.asarray(slopes[path]["w"]).any() == learns, path


def test_a_gate_is_what_was_decided_and_has_the_slope_of_the_probability() -> None:
    logit = jnp.asarray([-6.0, -0.3, 0.0, 2.0])
    on = jnp.asarray([False, True, False, True])
    np.testing.assert_array_equal(straight_through(logit, on), [0.0, 1.0, 0.0, 1.0])
    slope = jax.grad(lambda logit: jnp.sum(straight_through(logit, on)))(logit)
    share = chance(np.asarray(logit))
    np.testing.assert_allclose(slope, share * (1 - share), rtol=1e-5)


def test_calls_are_paid_for_by_the_exits_after_them() -> None:
    """Against loops: what is called before exit k, at the shares that weigh its loss."""
    K, B, T, M, even, costs = 3, 2, 4, 2, 0.4, (0.25, 2.0)
    rng = np.random.default_rng(0)
    halt, choice = rng.normal(size=(K, B, T)), rng.normal(size=(K, B, T, M))
    price = np.array([0.1, 0.7])
    exits = AllExits(
        *(jnp.asarray(x, jnp.float32) for x in (
            rng.normal(size=(K, B, T, 6)), halt, rng.normal(size=(K, B, T)), np.ones((B, T)), price,
            choice,
        ))
    )  # fmt: skip
    table = jnp.asarray(rng.normal(size=(9, 6)), jnp.float32)
    labels, weights = jnp.zeros((B, T), jnp.int32), jnp.ones((B, T), jnp.float32)
    terms = LossTerms(weights, jnp.float32(0), jnp.float32(0), jnp.float32(1))
    told = (table, labels, terms)
    found, plain = (
        exit_losses(one, *told, even=even, costs=costs, cap=None, chunk_size=4).pondered
        for one in (exits, exits._replace(choice_KBTM=None))
    )
    for b in range(B):
        for t in range(T):
            stop = chance(halt[:, b, t])
            p = [stop[0], (1 - stop[0]) * stop[1], (1 - stop[0]) * (1 - stop[1])]
            called, spent, undecided = 0.0, 0.0, 0.0
            for k in range(K):
                before = sum(
                    costs[m] * chance(choice[j, b, t, m]) for j in range(k) for m in range(M)
                )
                called += (even / K + (1 - even) * p[k]) * price[b] * before
                spent += p[k] * price[b] * before
            for q in chance(choice[: K - 1, b, t]).flat:
                undecided += np.log(2) + q * np.log(q) + (1 - q) * np.log(1 - q)
            assert found.called_BT is not None
            assert found.called_BT[b, t] == pytest.approx(called, rel=1e-5)
            more = found.spent_BT[b, t] - plain.spent_BT[b, t]
            assert more == pytest.approx(spent, rel=1e-4)
            more = found.ponder_BT[b, t] - plain.ponder_BT[b, t]
            assert more == pytest.approx(undecided / (M * (K - 1)), rel=1e-4)


@pytest.mark.parametrize("form", [CALLED, SEARCHED], ids=["hashed, circuit", "product keys"])
def test_parameters_are_counted(form: dict[str, Any]) -> None:
    config = small_config(**form)
    shapes = jax.tree.leaves(TMSModel(config).shapes)
    assert count_parameters(config).total == sum(int(np.prod(leaf.shape)) for leaf in shapes)


@pytest.mark.parametrize(
    "form",
    [
        {"knowledge": {"kind": "product_key", "rows": 40, "top_k": 6}},
        {"quantum_layers": 1, "quantum": {"num_rounds": 1, "num_qubits": 8}},
    ],
    ids=["knowledge", "quantum"],
)
def test_a_call_costs_what_it_declares(form: dict[str, Any]) -> None:
    """Training computes every call, so the compiler's count of its forward pass has them all."""
    name = "quantum" if "quantum" in form else "knowledge"
    fields = WIDE | CORE | form | {"controller": {"max_steps": 2, "calls": [name]}}
    config = AGIConfig.from_dict(fields | {"controller_strategy": "thorough"})
    plain = AGIConfig.from_dict(WIDE | CORE | {"controller": {"max_steps": 2}})
    assert step_cost(config) - step_cost(plain) == 2 * HIDDEN, "one more choice"
    (cost,) = call_costs(config)
    added = trained_operations(config) - trained_operations(plain)
    assert cost * step_cost(config) == pytest.approx(added, rel=0.08)
    line = next(line for line in contract_table(config) if line.startswith(name))
    assert f"{cost * step_cost(config):,.0f} operations a token, by the token" in line


def trained_operations(config: AGIConfig) -> float:
    """Of a token through all steps, forward, by the compiler; its loops are run through once."""
    model = TMSModel(config)
    ids = jnp.zeros((2, 64), jnp.int32)
    weights, knobs = jnp.ones((2, 64), jnp.float32), Knobs.from_config(config)

    def run(params: Any) -> jax.Array:
        terms = loss_terms(weights, knobs, scale=jnp.float32(1))
        scores = model.scores(params, ids, ids, terms=terms)
        assert scores.objective is not None
        return scores.objective

    counts = jax.jit(run).lower(model.shapes).compile().cost_analysis()
    assert counts is not None
    return float(counts["flops"]) / (2 * 64)
