"""The compiled step: what it computes on one device, and what it must not touch."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.training.state import TrainState
from tests.models.small import (
    GRAPH,
    ROOMY,
    TIERS,
    assert_trees_close,
    assert_trees_equal,
    random_params,
    small_config,
)
from tests.training.runs import PLAIN, Run, flat

NAN = float("nan")


@pytest.fixture(scope="module")
def plain() -> Run:
    return Run(small_config(optimizer=PLAIN))


@pytest.fixture(scope="module")
def default() -> Run:
    """Muon with clipping and decay, as a run has it that sets nothing."""
    return Run(small_config(optimizer={"warmup_steps": 2}))


def gradients(run: Run, before: dict[str, np.ndarray], after: TrainState) -> dict[str, np.ndarray]:
    """What a plain step says the gradients were."""
    moved = flat(after.params)
    return {path: (before[path] - moved[path]) / 0.1 for path in before}


# ------------------------------------------------------------------------------- what it computes


def test_a_plain_step_descends_the_token_weighted_mean(plain: Run) -> None:
    params, batch = random_params(plain.model), plain.batch()

    def loss(params: Any) -> jax.Array:
        nll = plain.model.batch_scores(params, batch).tokens.nll
        return jnp.sum(nll * batch.weights) / jnp.sum(batch.weights)

    value, expected = jax.jit(jax.value_and_grad(loss))(params)
    state, metrics = plain.go(plain.start(params))
    found = gradients(plain, flat(params), state)
    for path, gradient in flat(expected).items():
        np.testing.assert_allclose(found[path], gradient, atol=2e-5, err_msg=path)
    assert float(metrics.means.objective) == pytest.approx(float(value), rel=1e-5)
    assert float(metrics.means.tokens.nll) == pytest.approx(float(value), rel=1e-5)
    assert float(metrics.weight) == pytest.approx(float(batch.weights.sum()), rel=1e-6)
    assert float(metrics.means.tokens.weight) == 1.0
    norms = {path: np.linalg.norm(gradient) for path, gradient in flat(expected).items()}
    whole = np.sqrt(sum(norm**2 for norm in norms.values()))
    assert float(metrics.grad_norm) == pytest.approx(whole, rel=1e-5)
    for path, norm in metrics.layer_grad_norms.items():
        assert norm.shape == ((2,) if "/layers/" in path else ())
        assert float(jnp.linalg.norm(norm)) == pytest.approx(norms[path], rel=1e-4), path
    assert (int(state.step), int(state.skipped), float(metrics.skipped)) == (1, 0, 0.0)
    assert float(metrics.learning_rate) == pytest.approx(0.1)


@pytest.mark.parametrize("experts", [{}, ROOMY], ids=["dense", "experts"])
def test_every_parameter_has_a_gradient(plain: Run, experts: dict[str, Any]) -> None:
    """Every single number of it, but for the embeddings of tokens that do not occur."""
    run = Run(small_config(optimizer=PLAIN, experts=experts)) if experts else plain
    params, batch = random_params(run.model), run.batch()
    state, metrics = run.go(run.start(params))
    for path, norm in metrics.layer_grad_norms.items():
        assert (np.asarray(norm) > 0).all(), path
    seen = np.unique(np.asarray(batch.input_ids)[np.asarray(batch.segment_ids) > 0])
    for path, gradient in gradients(run, flat(params), state).items():
        rows = gradient[seen] if path == "decoder/embedding" else gradient
        assert (rows != 0).mean() > 0.99, path


@pytest.mark.parametrize(
    "form",
    [{}, {"experts": ROOMY}, GRAPH, {"memory": TIERS, "num_layers": 1}],
    ids=["dense", "experts", "graph", "memory"],
)
def test_micro_batches_add_up_to_the_whole_batch(plain: Run, form: dict[str, Any]) -> None:
    """With experts, all but their balancing losses do: those are products of means."""
    knobs = {
        "z_loss": 0.1, "label_smoothing": 0.1, "balance_weight": 0.0, "router_z_weight": 0.0,
        "hop_price": 0.2,
    }  # fmt: skip
    whole = Run(small_config(optimizer=PLAIN, **form)) if form else plain
    parts = Run(small_config(optimizer=PLAIN, **form, accumulate_steps=4))
    weights = np.asarray(whole.batch().weights).reshape(2, 4, -1).sum((0, 2))
    assert weights.max() > 2 * weights.min(), "a mean of means would be seen"
    (one, told), (four, heard) = (run.go(run.start(), **knobs) for run in (whole, parts))
    assert_trees_close(four.params, one.params, atol=1e-6)
    assert float(told.grad_norm) > 0.5
    assert_trees_close(heard.layer_grad_norms, told.layer_grad_norms)
    assert_trees_close(heard.means.tokens, told.means.tokens)
    assert float(heard.means.objective) == pytest.approx(float(told.means.objective), rel=1e-5)


def test_clipping_scales_the_whole_gradient_down_to_the_knob(plain: Run) -> None:
    params = random_params(plain.model)
    free, metrics = plain.go(plain.start(params))
    norm = float(metrics.grad_norm)
    for clip, share in ((norm / 4, 0.25), (norm * 4, 1.0)):
        state, metrics = plain.go(plain.start(params), clip_norm=clip)
        assert float(metrics.grad_norm) == pytest.approx(norm), "before clipping"
        whole, clipped = (gradients(plain, flat(params), s) for s in (free, state))
        for path, gradient in whole.items():
            np.testing.assert_allclose(clipped[path], share * gradient, atol=2e-5, err_msg=path)


def test_dropout_follows_the_state_and_the_step() -> None:
    run = Run(small_config(optimizer=PLAIN, dropout_rate=0.5))
    losses = []
    for step in (0, 0, 1):
        state = run.start()
        state = state.replace(step=jnp.int32(step))  # type: ignore[attr-defined]
        losses.append(float(run.go(state)[1].means.objective))
    assert losses[0] == losses[1] != losses[2]


def test_a_batch_without_a_token_that_counts_changes_nothing_but_the_step(plain: Run) -> None:
    params = random_params(plain.model)
    batch = plain.batch()._replace(weights=jnp.zeros((8, 12)))
    state, metrics = plain.go(plain.start(params), batch=batch)
    assert_trees_equal(state.params, params)
    assert float(metrics.means.objective) == 0.0 and int(state.skipped) == 0


# ------------------------------------------------------------------------- what it must not touch


def test_knobs_and_progress_do_not_compile_again_and_the_state_is_donated(default: Run) -> None:
    state = default.start()
    for step, scale in enumerate((1.0, 0.5, 2.0)):
        given = state
        state, metrics = default.go(
            state,
            batch=default.batch(seed=step),
            fraction=step / 3,
            learning_rate_scale=scale,
            weight_decay=0.1 * step,
            clip_norm=1.0 + step,
            z_loss=0.01 * step,
        )
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given))
        # Two steps of warm-up, then wsd at full rate until six tenths are spent.
        assert float(metrics.learning_rate) == pytest.approx(
            0.02 * scale * (0.5, 1.0, 1 - (2 / 3 - 0.6) / 0.4)[step], rel=1e-5
        )
    assert default.step.__wrapped__._cache_size() == 1
    assert int(state.step) == 3


def test_a_gradient_that_is_not_finite_changes_neither_parameters_nor_moments(
    default: Run,
) -> None:
    state, _ = default.go(default.start())
    before = flat(state)
    state, metrics = default.go(state, z_loss=NAN)
    assert not np.isfinite(float(metrics.grad_norm)) and float(metrics.skipped) == 1.0
    after = flat(state)
    assert (int(after.pop("step")), int(after.pop("skipped"))) == (2, 1)
    for path, value in after.items():
        assert value.tobytes() == before[path].tobytes(), path
    state, metrics = default.go(state)
    assert (int(state.step), int(state.skipped), float(metrics.skipped)) == (3, 1, 0.0)
    moved = flat(state.params)
    assert all((moved[path] != before[f"params/{path}"]).any() for path in moved)


# ------------------------------------------------------------------------------- number formats


def half(compute: str, **precision: Any) -> Run:
    return Run(small_config(optimizer=PLAIN, precision={"compute": compute} | precision))


@pytest.mark.parametrize(("compute", "error"), [("bfloat16", 0.01), ("float16", 0.001)])
def test_half_precision_stays_near_float32(plain: Run, compute: str, error: float) -> None:
    """Loss and gradient norm within 1 % in bfloat16 and 0.1 % in float16 at the same parameters."""
    run = half(compute)
    (state, rough), (_, exact) = run.go(run.start()), plain.go(plain.start())
    assert float(rough.means.objective) == pytest.approx(float(exact.means.objective), rel=error)
    assert float(rough.grad_norm) == pytest.approx(float(exact.grad_norm), rel=error)
    assert float(rough.means.objective) != float(exact.means.objective)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}


def test_the_float16_scale_halves_until_gradients_are_finite_and_doubles_after_a_period() -> None:
    run = half("float16", initial_loss_scale=2.0**22, loss_scale_period=2)
    state, params = run.start(), random_params(run.model)
    scales: list[float] = []
    skipped: list[bool] = []
    while len(scales) < 12:
        untouched = flat(state.params)
        state, metrics = run.go(state, learning_rate_scale=0.0 if len(scales) < 11 else 1.0)
        scales.append(float(metrics.loss_scale))
        skipped.append(bool(metrics.skipped))
        if skipped[-1]:
            assert_trees_equal(flat(state.params), untouched)
    first = skipped.index(False)
    assert first > 2, "the scale it starts from overflows"
    assert scales[: first + 1] == [2.0 ** (22 - i) for i in range(first + 1)]
    assert skipped[: first + 3] == [True] * first + [False, False, True], "doubled after two"
    assert scales[first + 2] == 2 * scales[first]
    assert int(state.skipped) == sum(skipped) and int(state.step) == 12
    assert (not skipped[-1]) == any(
        (flat(state.params)[p] != v).any() for p, v in flat(params).items()
    )


def test_small_gradients_survive_float16_by_the_scale(plain: Run) -> None:
    """One row outweighs the others so much that float16 alone would round theirs to noise."""
    batch = plain.batch()
    heavy = jnp.where(jnp.arange(8)[:, None] == 0, 1e7, 1.0)
    batch = batch._replace(weights=batch.weights * heavy)
    ids = np.asarray(batch.input_ids)
    light = sorted(set(ids[1:][np.asarray(batch.segment_ids)[1:] > 0]) - set(ids[0]))
    params = random_params(plain.model)
    moves = []
    for run in (plain, *(half("float16", initial_loss_scale=scale) for scale in (4096.0, 1.0))):
        state, _ = run.go(run.start(params), batch=batch, learning_rate_scale=1e8)
        assert not int(state.skipped)
        moves.append(flat(state.params)["decoder/embedding"][light])
    start = flat(params)["decoder/embedding"][light]
    exact, scaled, unscaled = (move - start for move in moves)
    assert np.linalg.norm(exact) > 0.1
    assert np.linalg.norm(scaled - exact) < 0.02 * np.linalg.norm(exact)
    assert np.linalg.norm(unscaled - exact) > 0.5 * np.linalg.norm(exact)
