"""Memory from step to step: two steps read what one row of twice the length reads."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.checkpoint.snapshot import read_snapshot, write_snapshot
from rtdlm.config import UserError
from rtdlm.data.batch import Batch
from rtdlm.models import TMSModel
from rtdlm.parallel import memory_spec
from rtdlm.training.carried import carried_shapes, kept
from rtdlm.training.planning import estimate_model_memory
from rtdlm.training.saving import from_snapshot
from tests.models.small import TIERS, assert_trees_close, assert_trees_equal, small_config
from tests.training.runs import ONE, PLAIN, Run, Shape, flat
from tests.training.test_saving import saved

T = 12
STILL = {"learning_rate_scale": 0.0}


def carrying(shape: Shape = ONE, **overrides: Any) -> Run:
    memory = {**TIERS, "across_steps": True, **overrides.pop("memory", {})}
    config = small_config(**{"optimizer": PLAIN, "num_layers": 1, **overrides}, memory=memory)
    return Run(config, shape)


@pytest.fixture(scope="module")
def one() -> Run:
    return carrying()


def long_rows(*, rows: int = 8, steps: int = 2) -> Batch:
    """Rows of so many steps' tokens; documents begin anywhere, and in row 0 where a step does."""
    rng = np.random.default_rng(3)
    ids, labels = rng.integers(64, size=(2, rows, steps * T)).astype(np.int32)
    begins = rng.random((rows, steps * T)) < 0.1
    begins[:, 0], begins[0, T], begins[1] = True, True, False
    # The loader counts from 2 where a row goes on with nothing. All of row 1 is one document.
    documents = np.cumsum(begins, axis=1, dtype=np.int32) + 1
    documents[1] = 2
    place = np.arange(steps * T, dtype=np.int32)[None]
    positions = place - np.maximum.accumulate(np.where(begins, place, 0), axis=1)
    weights = rng.uniform(0.5, 1.5, ids.shape).astype(np.float32)
    return Batch(ids, labels, documents, positions, weights)


def as_read(long: Batch, step: int) -> Batch:
    """The part of a step as the loader makes it."""
    part = Batch(*(array[:, step * T : (step + 1) * T] for array in long))
    before = long.segment_ids[:, step * T - 1] if step else np.ones(len(part.labels), np.int32)
    new = part.segment_ids[:, 0] > before
    first = part.segment_ids[:, :1]
    positions = part.positions - np.where(part.segment_ids == first, part.positions[:, :1], 0)
    return part._replace(
        segment_ids=part.segment_ids - first + 1 + new[:, None], positions=positions
    )


def two_steps(run: Run, **knobs: float) -> tuple[Any, list[float]]:
    """The state after both parts of `long_rows`, and their mean losses."""
    state, losses, long = run.start(), [], long_rows()
    for step in range(2):
        state, metrics = run.go(state, batch=as_read(long, step), **knobs)
        losses.append(float(metrics.means.tokens.nll))
    return state, losses


@pytest.fixture(scope="module")
def still(one: Run) -> tuple[Any, list[float]]:
    state, losses = two_steps(one, **STILL)
    return jax.tree.map(jnp.copy, state), losses


def test_two_steps_read_as_one_row_of_twice_the_length(one: Run, still: Any) -> None:
    (state, losses), long = still, long_rows()
    params = one.start().params
    scores = jax.jit(one.model.batch_scores)(params, long)
    for step, loss in enumerate(losses):
        part = np.s_[:, step * T : (step + 1) * T]
        weights = long.weights[part]
        expected = (np.asarray(scores.tokens.nll)[part] * weights).sum() / weights.sum()
        assert loss == pytest.approx(expected, rel=1e-5)
    assert_trees_close(state.memory.memory, scores.memory, atol=1e-5)
    np.testing.assert_array_equal(state.memory.document_B, long.segment_ids[:, -1])


def test_what_is_carried_is_read_by_the_same_document_and_by_no_other(one: Run) -> None:
    """Row 1 goes on with a document, row 0 begins one where the step does."""
    long, losses = long_rows(), {}
    for row in (0, 1):
        for other in (False, True):
            first, second = (as_read(long, step) for step in range(2))
            if other:
                first = first._replace(input_ids=first.input_ids[:, ::-1].copy())
            only = np.zeros_like(second.weights)
            only[row] = 1.0
            state, _ = one.go(one.start(), batch=first, **STILL)
            _, metrics = one.go(state, batch=second._replace(weights=only), **STILL)
            losses[row, other] = float(metrics.means.tokens.nll)
    assert losses[0, False] == losses[0, True]
    assert abs(losses[1, False] - losses[1, True]) > 1e-3


@pytest.mark.parametrize("shape", ["pmap", (1, 2, 2)], ids=str)
def test_every_mesh_carries_the_same(one: Run, still: Any, shape: Shape) -> None:
    many = carrying(shape)
    state, losses = two_steps(many, **STILL)
    assert losses == pytest.approx(still[1], rel=1e-5)
    assert_trees_close(flat(state.memory), flat(still[0].memory), atol=1e-5)
    placed = jax.tree.map(lambda leaf: leaf.sharding, state.memory)
    assert placed == many.shardings.memory
    rows = many.mesh.size if isinstance(shape, str) else shape[0] * shape[1]
    held = {leaf.sharding.shard_shape(leaf.shape)[1] for leaf in jax.tree.leaves(state.memory[0])}
    assert held == {8 // rows}


def test_micro_batches_carry_their_own_rows(still: Any) -> None:
    state, losses = two_steps(carrying(accumulate_steps=4), **STILL)
    assert losses == pytest.approx(still[1], rel=1e-5)
    assert_trees_close(flat(state.memory), flat(still[0].memory), atol=1e-5)


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_a_run_goes_on_bitwise_with_what_it_remembered(tmp_path: Path, compute: str) -> None:
    run = carrying(precision={"compute": compute})
    long = long_rows()
    state, _ = run.go(run.start(), batch=as_read(long, 0))
    write_snapshot(saved(run, state), tmp_path / "7", part_bytes=10_000, best=False)
    expected = flat(run.go(state, batch=as_read(long, 1))[0])
    stored = read_snapshot(tmp_path / "7", step=7)
    back, _, _ = from_snapshot(stored, run.shapes, run.config, run.mesh)
    assert_trees_equal(flat(run.go(back, batch=as_read(long, 1))[0]), expected)


def test_a_step_that_is_skipped_leaves_what_rows_remember(one: Run) -> None:
    state, _ = one.go(one.start(), batch=as_read(long_rows(), 0))
    kept = flat(state.memory)
    batch = as_read(long_rows(), 1)
    state, metrics = one.go(state, batch=batch._replace(weights=batch.weights * np.nan))
    assert float(metrics.skipped) == 1.0
    assert_trees_equal(flat(state.memory), kept)


def test_a_memory_that_is_not_finite_is_not_carried(one: Run) -> None:
    state, _ = one.go(one.start(), batch=as_read(long_rows(), 0))
    good, yes = state.memory, jnp.bool_(True)
    assert_trees_equal(flat(kept(one.start().memory, good, yes)), flat(good))
    broken = jax.tree.map(lambda x: x / 0 if x.dtype == jnp.float32 else x, good)
    assert_trees_equal(flat(kept(good, broken, yes)), flat(good))


def test_every_part_of_memory_has_a_rule_and_heads_are_apart() -> None:
    run = carrying((2, 1, 4))
    specs = [at.spec for at in jax.tree.leaves(run.shardings.memory)]
    apart = sum("tensor" in spec for spec in specs)
    assert apart == 11, "keys and values, matrices, and what convolutions look back at"
    with pytest.raises(ValueError, match="matches 0 partition rules"):
        memory_spec("loops/0/0/new/thing", (1, 8, 4), run.mesh)


def test_the_estimate_counts_what_is_carried(one: Run) -> None:
    estimate = estimate_model_memory(one.config, one.mesh)
    shapes = carried_shapes(one.model)
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
    assert estimate.carried == size > 0
    off = estimate_model_memory(one.config.replace(memory={"across_steps": False}), one.mesh)
    assert off.carried == 0 and off.state == estimate.state - size


def test_nothing_is_carried_unless_asked_for() -> None:
    config = small_config(memory=TIERS)
    assert Run(config).shapes.memory is None and carried_shapes(TMSModel(config)) is None


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ({"max_seq_len": 14}, "max_seq_len=14 is not whole segments of memory.segment=4"),
        ({"warmup": {"seq_len": 6, "seq_len_steps": 5}}, "warmup.seq_len=6 cannot be combined"),
        ({"warmup": {"batch_size": 4, "batch_steps": 5}}, "warmup.batch_size=4 cannot be combined"),
        (
            {"data": {"shards": ["a", "b"], "weights": [1.0, 2.0]}},
            r"data.weights=\[1.0, 2.0\] cannot be combined",
        ),
    ],
)
def test_what_does_not_go_with_it_is_refused(overrides: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        carrying(**overrides)


def test_without_a_tier_there_is_nothing_to_carry() -> None:
    with pytest.raises(UserError, match="across_steps=True carries nothing without a tier"):
        small_config(memory={"segment": 4, "across_steps": True})
