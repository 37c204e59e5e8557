"""State -> snapshot -> state is the identity, bitwise, on any mesh; other configs are refused."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.checkpoint import Snapshot
from rtdlm.checkpoint.snapshot import read_snapshot, write_snapshot
from rtdlm.config import UserError
from rtdlm.training.optimizer import evaluation_params
from rtdlm.training.saving import Position, check_config, from_snapshot, to_snapshot
from rtdlm.training.state import TrainState, state_shardings
from tests.models.small import assert_trees_equal, small_config
from tests.training.runs import ONE, Run, flat

POSITION = Position(
    step=7, seconds=12.34567890123, trained_seconds=11.1, best_loss=0.1 + 0.2, best_step=5,
    bad_evaluations=1,
)  # fmt: skip
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adamw": {"optimizer": {"name": "adamw"}},
    "muon, float16": {"optimizer": {"name": "muon"}, "precision": {"compute": "float16"}},
    "adafactor": {"optimizer": {"name": "adafactor"}, "d_model": 128, "d_ff": 128},
    "lion": {"optimizer": {"name": "lion"}},
    "sgd": {"optimizer": {"name": "sgd"}},
    "schedule_free": {"optimizer": {"name": "schedule_free", "schedule": "constant"}},
}


def random_state(run: Run, seed: int = 0) -> TrainState:
    """A state in which no number is what it starts as."""
    rng = np.random.default_rng(seed)

    def leaf(shape: jax.ShapeDtypeStruct, sharding: Any) -> jax.Array:
        if jnp.issubdtype(shape.dtype, jax.dtypes.prng_key):
            return jax.device_put(jax.random.key(99), sharding)
        value = rng.normal(size=shape.shape) * 100
        return jax.device_put(jnp.asarray(value, shape.dtype), sharding)

    return jax.tree.map(leaf, run.shapes, state_shardings(run.shapes, run.mesh))


def saved(run: Run, state: TrainState) -> Snapshot:
    return to_snapshot(
        state, run.knobs, POSITION, run.config, data={"fingerprint": "f"}, tokenizer=b"{}"
    )


def reread(snapshot: Snapshot) -> Snapshot:
    """The snapshot with its state as JSON gives it back."""
    return replace(snapshot, state=json.loads(json.dumps(snapshot.state)))


@pytest.mark.parametrize("case", OPTIMIZERS)
def test_saving_and_restoring_is_the_identity(case: str) -> None:
    run = Run(small_config(**OPTIMIZERS[case]))
    turned = run.knobs._replace(
        learning_rate_scale=jnp.float32(1 / 3), clip_norm=jnp.float32("inf")
    )
    state = random_state(run)
    snapshot = to_snapshot(state, turned, POSITION, run.config, data={}, tokenizer=None)
    back, knobs, position = from_snapshot(reread(snapshot), run.shapes, run.config, run.mesh)
    json.dumps(snapshot.state, allow_nan=False)  # what any reader of JSON can read
    assert_trees_equal(back, state)
    assert_trees_equal(knobs, turned)
    assert position == POSITION
    evaluated = evaluation_params(run.config.optimizer, state.optimizer, state.params)
    assert_trees_equal(dict(snapshot.params), flat(evaluated))


def test_the_average_is_what_is_shipped() -> None:
    run = Run(small_config(**OPTIMIZERS["schedule_free"]))
    state = random_state(run)
    table = "decoder/embedding"
    trained, shipped = flat(state.params)[table], saved(run, state).params[table]
    z = flat(state.optimizer.z)[table]
    b1 = float(state.optimizer.b1)
    np.testing.assert_allclose(b1 * shipped + (1 - b1) * z, trained, rtol=1e-3, atol=1e-2)
    assert not np.allclose(shipped, trained)


def test_what_was_saved_says_where_the_data_stands() -> None:
    run = Run(small_config(seed=5))
    snapshot = saved(run, random_state(run))
    assert snapshot.step == 7 and snapshot.tokenizer == b"{}"
    assert snapshot.state["data"] == {"fingerprint": "f", "seed": 5, "next_step": 7}


@pytest.mark.parametrize(("one", "other"), [(ONE, (2, 2, 2)), ((2, 2, 2), (1, 8, 1))], ids=str)
def test_a_snapshot_restores_onto_another_mesh(
    one: tuple[int, int, int], other: tuple[int, int, int]
) -> None:
    config = small_config(optimizer={"name": "adamw"})
    there, here = Run(config, one), Run(config, other)
    state = random_state(there)
    back, _, _ = from_snapshot(saved(there, state), here.shapes, config, here.mesh)
    assert_trees_equal(flat(back), flat(state))
    placed = jax.tree.map(lambda leaf: leaf.sharding, back)
    assert placed == state_shardings(here.shapes, here.mesh)


def test_a_run_of_eight_devices_goes_on_with_any_number(tmp_path: Path) -> None:
    """Parameters to the bit, the next loss to 1e-6."""
    options = {"optimizer": {"name": "adamw", "warmup_steps": 2}, "batch_size": 8}
    run = Run(small_config(**options), "fsdp")
    state, _ = run.go(run.start())
    write_snapshot(saved(run, state), tmp_path / "7", part_bytes=10_000, best=False)
    kept = flat(state)
    _, expected = run.go(state, batch=run.batch(1))
    # Devices along data, fsdp and tensor.
    for shape in ((1, 4, 1), (1, 2, 1), ONE, (2, 4, 1), (2, 1, 4)):
        other = Run(small_config(**options), shape)
        stored = read_snapshot(tmp_path / "7", step=7)
        back, _, _ = from_snapshot(stored, other.shapes, other.config, other.mesh)
        assert_trees_equal(flat(back), kept)
        _, told = other.go(back, batch=other.batch(1))
        loss, wanted = (m.means.tokens.nll for m in (told, expected))
        np.testing.assert_allclose(loss, wanted, rtol=1e-6, err_msg=str(shape))


def test_training_goes_on_bitwise_and_leaves_the_files_alone(tmp_path: Path) -> None:
    """The restored arrays are memory maps; the step donates what it is given."""
    run = Run(small_config(optimizer={"warmup_steps": 2}))
    state, _ = run.go(run.start())
    snapshot = saved(run, state)
    write_snapshot(snapshot, tmp_path / "7", part_bytes=10_000, best=False)
    files = {path.name: path.read_bytes() for path in (tmp_path / "7").iterdir()}
    expected = flat(run.go(state, batch=run.batch(1))[0])
    for _ in range(2):
        stored = read_snapshot(tmp_path / "7", step=7)
        back, _, _ = from_snapshot(stored, run.shapes, run.config, run.mesh)
        assert_trees_equal(flat(run.go(back, batch=run.batch(1))[0]), expected)
    assert {path.name: path.read_bytes() for path in (tmp_path / "7").iterdir()} == files
    assert run.step.__wrapped__._cache_size() == 1, "nor does a restored state compile again"


def test_a_snapshot_is_a_copy_that_later_steps_do_not_reach() -> None:
    run = Run(small_config(optimizer={"warmup_steps": 2}))
    state, _ = run.go(run.start())
    snapshot = saved(run, state)
    kept = {name: array.copy() for name, array in snapshot.params.items()}
    run.go(state, batch=run.batch(1))
    assert_trees_equal(dict(snapshot.params), kept)


# ------------------------------------------------------------------------------- what does not fit


def refusal(now: dict[str, Any], then: dict[str, Any]) -> str:
    run, old = Run(small_config(**now)), Run(small_config(**then))
    snapshot = saved(old, random_state(old))
    with pytest.raises(UserError) as caught:
        from_snapshot(snapshot, run.shapes, run.config, run.mesh)
    return str(caught.value)


def test_another_config_is_one_sentence_that_names_every_key() -> None:
    now = {"d_ff": 48, "optimizer": {"name": "adamw"}, "seed": 1}
    assert refusal(now, {}) == (
        "the checkpoint at step 7 was made with another config: d_ff is 48, was 32, seed is 1, was "
        "0, optimizer.name is 'adamw', was 'muon'; resume with the values it was made with, or "
        "start a new run in another --out"
    )


def test_what_changes_no_step_may_differ() -> None:
    ours = small_config()
    theirs = small_config(
        num_steps=99, layer_unroll=1, mesh={"fsdp": 2}, checkpoint={"every_steps": 3},
        evaluation={"num_batches": 1}, monitoring={"log_every": 5},
        data={"text": ["elsewhere"], "prefetch": 7},
    )  # fmt: skip
    run = Run(theirs)
    check_config(ours, saved(run, random_state(run)).config, step=1)


def test_arrays_that_do_not_fit_are_named() -> None:
    run = Run(small_config())
    snapshot = saved(run, random_state(run))
    params = dict(snapshot.params)
    params["decoder/surplus"] = params.pop("decoder/output")
    with pytest.raises(UserError, match=re.escape("1 missing (decoder/output float32[64,16])")):
        from_snapshot(replace(snapshot, params=params), run.shapes, run.config, run.mesh)
