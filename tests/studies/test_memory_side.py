"""The harness of the memory studies, with models that have no memory or keep it in attention."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rtdlm.models import TMSModel
from rtdlm.models.cost import count_parameters
from rtdlm.training.knobs import Knobs
from rtdlm.training.optimizer import Progress
from studies import memory_recall, memory_side
from studies.memory_side import (
    BASE,
    NONE,
    RECURRENT,
    WHOLE_ROW,
    Run,
    Stage,
    fitted,
    matched,
    sessions_scores,
    training_loss,
    with_memory,
)
from studies.memory_tasks import Asked, Recall, Rule, Sessions, Text
from studies.variants import merged

TASK = memory_recall.SMOKE.task
TINY = merged(BASE, {"d_model": 16, "d_ff": 16})


class Recorder:
    """A model whose memory counts rows and whose answers are its memory."""

    def scores(
        self, params: Any, ids_BT: Any, labels_BT: Any, *, memory: Any = None, terms: Any = None
    ) -> Any:
        del labels_BT
        before = jnp.float32(0.0) if memory is None else memory
        objective = None if terms is None else jnp.sum(terms.weights_BT) * (params + before)
        return _Scores(objective, before + ids_BT.shape[1], before)


class _Scores(NamedTuple):
    objective: Any
    memory: Any
    before: Any


def session(length: int, *, counted: int) -> Asked:
    ids_BT = np.zeros((2, length), np.int32)
    asked_BT = np.arange(length)[None].repeat(2, 0) < counted
    return Asked(ids_BT, ids_BT, asked_BT.astype(np.float32), asked_BT)


def test_memory_goes_from_session_to_session() -> None:
    drawn = (session(8, counted=1), session(4, counted=1), session(2, counted=1))
    found = sessions_scores(Recorder().scores, jnp.float32(0.0), drawn, cleared=())
    assert [float(scores.before) for scores in found] == [0, 8, 12]


def test_between_sessions_tiers_are_cleared(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []

    def without(memory: Any, tiers: Any) -> Any:
        told.append(tuple(tiers))
        return memory / 2

    monkeypatch.setattr(memory_side, "without", without)
    drawn = (session(8, counted=1), session(4, counted=1), session(2, counted=1))
    found = sessions_scores(Recorder().scores, jnp.float32(0.0), drawn, cleared=("stm", "ltm"))
    assert [float(scores.before) for scores in found] == [0, 4, 4]
    assert told == [("stm", "ltm")] * 2


def test_the_loss_is_the_mean_over_what_counts_in_all_sessions() -> None:
    drawn = (session(8, counted=3), session(4, counted=1))
    knobs = Knobs.from_config(fitted(TINY, TASK, segments=1))
    loss = training_loss(Recorder(), jnp.float32(1.0), drawn, knobs, cleared=())
    assert float(loss) == pytest.approx((3 * 1.0 + 1 * 9.0) / 4)


def test_the_loss_of_a_model_and_its_gradient_are_those_of_its_logits() -> None:
    model = TMSModel(fitted(TINY, TASK, segments=3))
    knobs = Knobs.from_config(model.config)
    params = jax.jit(model.init)(jax.random.key(0))
    drawn = TASK.draw(np.random.default_rng(0), rows=2, segments=3, training=True)
    (rows,) = drawn

    def naive(params: Any) -> jax.Array:
        log_p = jax.nn.log_softmax(model.logits(params, jnp.asarray(rows.ids_BT)))
        own_BT = jnp.take_along_axis(log_p, jnp.asarray(rows.labels_BT)[..., None], -1)[..., 0]
        return -jnp.mean(own_BT[np.nonzero(rows.asked_BT)])

    def ours(params: Any) -> jax.Array:
        return training_loss(model, params, drawn, knobs, cleared=())

    (expected, slopes), (value, grads) = (
        jax.jit(jax.value_and_grad(function))(params) for function in (naive, ours)
    )
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    assert float(optax.tree.norm(slopes)) > 0.01
    for a, b in zip(jax.tree.leaves(slopes), jax.tree.leaves(grads), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_sides_have_the_same_number_of_parameters() -> None:
    sides = {
        "small": TINY,
        "wide": {**TINY, "d_ff": 40},
        "convolutions": {**TINY, "short_conv_places": ("queries", "keys", "values", "input")},
    }
    found = matched(sides, TASK)
    assert found["wide"] == sides["wide"]
    assert found["small"]["d_ff"] == 40
    assert 16 < found["convolutions"]["d_ff"] < 40
    totals = [count_parameters(fitted(tree, TASK, segments=1)).total for tree in found.values()]
    assert max(totals) / min(totals) <= 1.01
    assert sides["small"]["d_ff"] == 16


def test_tiers_are_put_on_top_of_none() -> None:
    tree = with_memory(TINY, RECURRENT, {"recurrent": "channel_decay"})
    assert tree["memory"] == {**NONE, "recurrent": "channel_decay"}
    assert with_memory(TINY)["memory"] == NONE
    assert "memory" not in TINY


def test_slots_follow_the_row(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Any] = []
    monkeypatch.setattr(memory_side.AGIConfig, "from_dict", built.append)
    fitted(with_memory(TINY, {"episodic_slots": WHOLE_ROW}), TASK, segments=5)
    fitted(with_memory(TINY, {"episodic_slots": 7}), TASK, segments=5)
    whole, seven = (tree["memory"] for tree in built)
    assert whole["segment"] == seven["segment"] == TASK.segment
    assert (whole["episodic_slots"], seven["episodic_slots"]) == (5 * TASK.segment, 7)


@pytest.mark.slow
def test_a_run_learns_what_stands_within_its_reach_and_is_judged_on_rows_of_its_own() -> None:
    """Attention over the whole row is a memory; the task is so small that few steps teach it."""
    task = Recall(segment=8, pairs=1, keys=2, values=2, noise=2, queries=2)
    run = Run(merged(TINY, {"d_model": 32}), task)
    untrained = run.train(0, [Stage(2, 16, 1)])
    trained = run.train(0, [Stage(2, 32, 60), Stage(3, 32, 60)])
    before = run.right(untrained.params, segments=2, rows=64)
    after = run.right(trained.params, segments=2, rows=64)
    assert before < 0.8
    assert after > 0.95
    assert run.right(trained.params, segments=2, rows=64) == after
    assert run.parameters == count_parameters(run.config).total
    assert trained.cpu > 0


def test_a_row_is_right_together_if_all_its_answers_are(monkeypatch: pytest.MonkeyPatch) -> None:
    task = Recall(segment=8, pairs=1, keys=2, values=2, noise=2, queries=2)
    run = Run(TINY, task)

    def judge(params: Any, drawn: Sessions) -> Any:
        """Each row's first answer is right."""
        (rows,) = drawn
        first_BT = rows.asked_BT & (rows.asked_BT.cumsum(1) == 1)
        return [(first_BT.astype(np.float32), np.zeros(first_BT.shape))]

    monkeypatch.setattr(run, "_judge", lambda segments, cleared: judge)
    assert run.right(None, segments=2, rows=4) == 0.5
    assert run.right(None, segments=2, rows=4, together=True) == 0.0


def test_losses_are_those_of_each_segment() -> None:
    text = np.frombuffer(b"abcd" * 40, np.uint8)
    task = Text(text, 128, segment=8)
    run = Run(TINY, task)
    model = TMSModel(fitted(TINY, task, segments=3))
    params, scores = jax.jit(model.init)(jax.random.key(0)), jax.jit(model.scores)
    batches = list(task.whole(rows=2, segments=3))
    losses = run.losses(params, batches, segments=3)
    nll = [
        np.asarray(scores(params, rows.ids_BT, rows.labels_BT).tokens.nll) for (rows,) in batches
    ]
    expected = np.concatenate(nll).reshape(-1, 3, 8).mean((0, 2))
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


def test_two_sessions_without_memory_are_refused_and_not_scored_apart() -> None:
    """Rows of two sessions ask a model for its memory; one that has none cannot go on."""
    run = Run(TINY, Rule(segment=16, inputs=6, maps=2, examples=2, noise=4, queries=4, sessions=2))
    with pytest.raises((AttributeError, AssertionError)):
        run.train(0, [Stage(2, 2, 1)])


def test_progress_ends_where_the_stages_do(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(TINY, TASK)
    seen = []

    def step(params: Any, moved: Any, drawn: Sessions, progress: Progress) -> tuple[Any, ...]:
        seen.append((int(progress.step), float(progress.fraction), drawn[0].ids_BT.shape))
        return params, moved, jnp.float32(0.0)

    monkeypatch.setattr(run, "_steps", lambda segments: step)
    run.train(0, [Stage(2, 3, 1), Stage(4, 1, 3)])
    assert seen == [
        (0, 0.0, (3, 32)), (1, 0.25, (1, 64)), (2, 0.5, (1, 64)), (3, 0.75, (1, 64)),
    ]  # fmt: skip
