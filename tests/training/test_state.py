"""The state on a mesh: made the same anywhere, really split, moments beside their parameters."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from jax.sharding import PartitionSpec as P

from rtdlm.models import TMSModel
from rtdlm.parallel import path_name
from rtdlm.training.state import init_state, state_of, state_shapes, state_shardings
from tests.models.small import assert_trees_equal, small_config
from tests.training.runs import ONE, Run, flat

QUERY, DOWN = "decoder/layers/block/attention/query/w", "decoder/layers/block/feedforward/down/w"
# What one device holds of [2, 16, 4, 4] queries, [2, 32, 16] down projections and [64, 16] tables.
PIECES = {
    (8, 1, 1): ((2, 16, 4, 4), (2, 32, 16), (64, 16)),
    (1, 8, 1): ((2, 2, 4, 4), (2, 32, 2), (64, 2)),
    (1, 1, 8): ((2, 16, 4, 4), (2, 4, 16), (8, 16)),  # 4 heads on 8 devices stay whole
    (2, 2, 2): ((2, 8, 2, 4), (2, 16, 8), (32, 8)),
    (2, 4, 1): ((2, 4, 4, 4), (2, 32, 4), (64, 4)),
}


def piece(leaf: jax.Array) -> tuple[int, ...]:
    shapes = {shard.data.shape for shard in leaf.addressable_shards}
    assert len(shapes) == 1
    return shapes.pop()


@pytest.mark.parametrize("shape", PIECES, ids=str)
def test_a_device_holds_its_piece_of_parameters_and_moments(shape: tuple[int, int, int]) -> None:
    run = Run(small_config(optimizer={"name": "adamw"}), shape)
    state = run.start()
    leaves = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state)}
    for path, expected in zip((QUERY, DOWN, "decoder/embedding"), PIECES[shape], strict=True):
        own = {name: leaf for name, leaf in leaves.items() if name.endswith(f"/{path}")}
        assert len(own) == 3, "the parameter and its two moments"
        for name, leaf in own.items():
            assert piece(leaf) == expected, name
            assert len(leaf.sharding.device_set) == 8


@pytest.mark.parametrize("name", ["muon", "adafactor", "lion", "sgd", "schedule_free"])
def test_no_optimizer_keeps_a_large_array_whole(name: str) -> None:
    """On eight ways of fsdp, whatever has a parameter's shape lies as that parameter does."""
    schedule = {"schedule": "constant"} if name == "schedule_free" else {}
    run = Run(small_config(optimizer={"name": name} | schedule), (1, 8, 1))
    shardings = state_shardings(run.shapes, run.mesh)
    split = {leaf.shape for leaf in jax.tree.leaves(run.shapes.params) if leaf.ndim > 2}
    moments = zip(
        jax.tree.leaves(run.shapes.optimizer), jax.tree.leaves(shardings.optimizer), strict=True
    )
    found = [placed.spec for leaf, placed in moments if leaf.shape in split]
    assert found and all("fsdp" in spec for spec in found)


def test_counters_and_factored_moments_are_repeated() -> None:
    config = small_config(optimizer={"name": "adafactor"}, d_model=128, d_ff=256)
    run = Run(config, (2, 2, 2))
    shardings = state_shardings(run.shapes, run.mesh)
    assert shardings.step.spec == shardings.key.spec == shardings.skipped.spec == P()
    factored = {(2, 128), (2, 256)}
    leaves = jax.tree_util.tree_leaves_with_path(run.shapes.optimizer)
    # Norms' moments have such a shape too, and are split like the norms.
    specs = [
        placed.spec
        for (path, leaf), placed in zip(leaves, jax.tree.leaves(shardings.optimizer), strict=True)
        if leaf.shape in factored and "norm" not in path_name(path)
    ]
    assert len(specs) >= 6 and not any(axis for spec in specs for axis in spec)


@pytest.mark.parametrize(
    ("keep", "name", "shape"),
    [
        # All moments in one vector, and a matrix's in another shape than its own.
        (lambda params: {"flat": ravel_pytree(params)[0]}, "optimizer/flat", "(8800,)"),
        (
            lambda params: jax.tree.map(lambda leaf: leaf.reshape(-1), params),
            "optimizer/decoder/embedding",
            "(2048,)",
        ),
    ],
    ids=["without a path", "in another shape"],
)
def test_large_state_beside_no_parameter_is_refused(
    keep: Callable[[Any], Any], name: str, shape: str
) -> None:
    run = Run(small_config(vocab_size=128), (1, 8, 1))
    own = optax.GradientTransformation(keep, lambda updates, state, params=None: (updates, state))
    expected = (
        f"{name} of shape {shape} would lie whole on every device: it has more than 1024 elements "
        "and no parameter's shape; keep it in a tree like the parameters', in their shapes, or "
        "choose mesh.strategy=data"
    )
    shapes = state_shapes(run.model, own)
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        state_shardings(shapes, run.mesh)
    for whole in ("data", ONE):  # by choice, and on one device
        state_shardings(shapes, Run(run.config, whole).mesh)


def test_the_same_seed_gives_the_same_bits_on_any_mesh() -> None:
    states = []
    for shape in (ONE, (2, 2, 2)):
        run = Run(small_config(seed=3), shape)
        states.append(init_state(run.model, run.optimizer, run.mesh))
        placed = jax.tree.map(lambda leaf: leaf.sharding, states[-1])
        assert placed == state_shardings(run.shapes, run.mesh)
    one, many = (flat(state) for state in states)
    assert_trees_equal(many, one)
    assert (int(one["step"]), int(one["skipped"])) == (0, 0)
    other = Run(small_config(seed=4))
    table = flat(init_state(other.model, other.optimizer, other.mesh).params)["decoder/embedding"]
    assert (table != one["params/decoder/embedding"]).all()


def test_a_start_traces_its_model_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """For its shapes and for its values: tracing is what a warm start waits for."""
    run, calls, init = Run(small_config()), [], TMSModel.init

    def counted(model: TMSModel, key: jax.Array) -> Any:
        calls.append(key)
        return init(model, key)

    monkeypatch.setattr(TMSModel, "init", counted)
    state_shapes(run.model, run.optimizer)
    init_state(run.model, run.optimizer, run.mesh)
    assert len(calls) == 1


def test_randomness_of_the_run_is_not_that_of_initialisation() -> None:
    run = Run(small_config())
    state = init_state(run.model, run.optimizer, run.mesh)
    params = jax.jit(run.model.init)(state.key)
    assert not np.array_equal(params["decoder"]["embedding"], state.params["decoder"]["embedding"])
    assert state.key.shape == () and jnp.issubdtype(state.key.dtype, jax.dtypes.prng_key)


def test_another_seed_compiles_no_other_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a cache of programs keeps for one seed serves all."""
    programs, jit = [], jax.jit

    def noted(function: Any, **options: Any) -> Any:
        compiled = jit(function, **options)
        if "out_shardings" not in options:
            return compiled  # is a part of one that has them

        def run(*arguments: Any) -> Any:
            programs.append(compiled.lower(*arguments).as_text())
            return compiled(*arguments)

        return run

    for seed in (3, 4):
        run = Run(small_config(seed=seed))
        with monkeypatch.context() as patched:
            patched.setattr(jax, "jit", noted)
            init_state(run.model, run.optimizer, run.mesh)
    one, other = programs
    assert one == other


@pytest.mark.parametrize("name", ["muon", "adafactor", "schedule_free"])
def test_a_state_of_given_parameters_is_the_one_that_drew_them(name: str) -> None:
    """Bitwise, on another mesh than they come from; and it trains, which donates every leaf."""
    schedule = {"schedule": "constant"} if name == "schedule_free" else {}
    config = small_config(seed=3, optimizer={"name": name, "warmup_steps": 0} | schedule)
    one, many = Run(config), Run(config, (2, 2, 2))
    drawn = init_state(one.model, one.optimizer, one.mesh)
    params = jax.tree.map(np.asarray, drawn.params)
    kept = jax.tree.map(np.copy, params)
    state = state_of(params, many.model, many.optimizer, many.mesh)
    assert_trees_equal(flat(state), flat(drawn))
    placed = jax.tree.map(lambda leaf: leaf.sharding, state)
    assert placed == state_shardings(many.shapes, many.mesh)
    if name == "schedule_free":
        moved, _ = one.go(state_of(params, one.model, one.optimizer, one.mesh))
        assert not np.array_equal(flat(moved.params)[QUERY], flat(params)[QUERY])
    assert_trees_equal(params, kept)
