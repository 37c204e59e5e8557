"""Weights in parts along `fsdp`: what is gathered, what is scattered, and along which lines."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rtdlm.config import MeshConfig
from rtdlm.modules.primitives import product
from rtdlm.parallel import (
    BATCH_AXES,
    every_row,
    fsdp,
    gathered,
    gathering,
    make_mesh,
    scattered,
    split_along,
    split_of,
    whole_again,
)
from rtdlm.parallel.hlo import parse_program

LAYER = "decoder/block/feedforward/up/w"
CUBES = [(8,), (4, 2), (2, 4), (2, 2, 2)]


def under_sides(monkeypatch: pytest.MonkeyPatch, sides: tuple[int, ...]) -> None:
    monkeypatch.setattr(fsdp, "sides_of", lambda mesh, axis: sides)


def compiled(mesh: Mesh, function: Callable[..., Any], *given: Any) -> Any:
    """`function`, which gathers, compiled for these arrays."""

    def traced(*given: Any) -> Any:
        with gathering(mesh, "fsdp"):
            return function(*given)

    with jax.set_mesh(mesh):
        return jax.jit(traced).lower(*given).compile()


@pytest.mark.parametrize("shape", CUBES)
@pytest.mark.parametrize("dim", [0, 1])
def test_parts_make_the_whole_and_sums_make_parts(
    shape: tuple[int, ...], dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    under_sides(monkeypatch, shape)
    mesh = make_mesh(MeshConfig(fsdp=8))
    rng = np.random.default_rng(0)
    whole = rng.normal(size=(16, 24)).astype(np.float32)
    terms = rng.integers(-9, 9, size=(8, 16, 24)).astype(np.float32)

    def both(whole: jax.Array, terms: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.shard_map(
            lambda part, term: (gathered(part, dim)[None], scattered(term[0], dim)),
            in_specs=(split_along(dim), PartitionSpec("fsdp")),
            out_specs=(PartitionSpec("fsdp"), split_along(dim)),
            check_vma=False,
        )(whole, terms)

    program = compiled(mesh, both, whole, terms)
    given = [
        jax.device_put(array, sharding)
        for array, sharding in zip((whole, terms), program.input_shardings[0], strict=True)
    ]
    copies, summed = program(*given)
    for copy in np.asarray(copies):
        np.testing.assert_array_equal(copy, whole)
    np.testing.assert_array_equal(np.asarray(summed), terms.sum(axis=0))
    kinds = [step.opcode for step, _ in parse_program(program.as_text()).instructions()]
    assert kinds.count("all-gather") == kinds.count("reduce-scatter") == len(shape)
    assert "all-reduce" not in kinds


@pytest.mark.parametrize("axes", [{"fsdp": 8}, {"data": 2, "fsdp": 4}, {"fsdp": 4, "expert": 2}])
@pytest.mark.parametrize("split", [0, 1])
def test_a_products_result_and_gradients_are_those_of_one_device(
    axes: dict[str, int], split: int
) -> None:
    mesh = make_mesh(MeshConfig(**{"data": 1, **axes}))
    rng = np.random.default_rng(1)
    x, w, slope = (
        rng.normal(size=shape).astype(np.float32) for shape in ((16, 8), (8, 24), (16, 24))
    )

    def gradients(split: int | None) -> Callable[..., Any]:
        def of(x: jax.Array, w: jax.Array, slope: jax.Array) -> Any:
            y, back = jax.vjp(lambda x, w: product(x, w, split=split), x, w)
            return y, back(slope)

        return of

    rows = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
    lie = (rows, NamedSharding(mesh, split_along(split)), rows)
    given = [jax.device_put(array, place) for array, place in zip((x, w, slope), lie, strict=True)]
    program = compiled(mesh, gradients(split), *given)
    found = program(*given)
    assert found[1][1].sharding.is_equivalent_to(lie[1], 2), "the gradient lies as the weight does"
    jax.tree.map(
        lambda got, expected: np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5),
        found,
        jax.jit(gradients(None))(x, w, slope),
    )
    kinds = [step.opcode for step, _ in parse_program(program.as_text()).instructions()]
    assert "reduce-scatter" in kinds
    assert ("all-reduce" in kinds) == (len(axes) > 1), "only over the groups that hold the same"


def test_rows_that_devices_do_not_divide_are_left_to_the_partitioner() -> None:
    mesh = make_mesh(MeshConfig(fsdp=8))
    x, w = jnp.ones((3, 8)), jnp.ones((8, 16))
    program = compiled(mesh, lambda x, w: product(x, w, split=0), x, w)
    np.testing.assert_array_equal(np.asarray(program(x, w)), np.full((3, 16), 8.0))


@pytest.mark.parametrize("axes", [{"fsdp": 8}, {"data": 2, "fsdp": 4}, {"fsdp": 4, "expert": 2}])
def test_tokens_of_all_devices_are_on_each(
    axes: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    ways = axes["fsdp"]
    under_sides(monkeypatch, (ways // 2, 2))
    mesh = make_mesh(MeshConfig(**{"data": 1, **axes}))
    ids = np.arange(16 * 3).reshape(16, 3)
    rows = jax.device_put(ids, NamedSharding(mesh, PartitionSpec(BATCH_AXES)))
    found = compiled(mesh, every_row, rows)(rows)
    np.testing.assert_array_equal(np.asarray(found), ids)
    # With experts apart rows lie in another order, and are left where they are.
    held = 16 // mesh.size if "expert" in axes else 16 // axes.get("data", 1)
    assert {len(shard.data) for shard in found.addressable_shards} == {held}
    few = ids[:3]
    assert len(compiled(mesh, every_row, few)(few)) == 3


def test_new_parameters_are_made_whole_where_the_strategy_has_them_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    under_sides(monkeypatch, (4, 2))
    mesh = make_mesh(MeshConfig(fsdp=8))
    params = {
        "decoder/block/feedforward/up": {"w": np.arange(16.0 * 24).reshape(16, 24)},
        "decoder/block/feedforward/down": {"w": np.arange(24.0 * 16).reshape(24, 16)},
        "decoder/block/attention/query_norm": {"scale": np.arange(4.0)},
        "decoder/odd/feedforward/up": {"w": np.arange(15.0 * 24).reshape(15, 24)},
    }

    def found(strategy: Any) -> Any:
        def traced(params: Any) -> Any:
            with gathering(mesh, strategy):
                return whole_again(params)

        with jax.set_mesh(mesh):
            return jax.jit(traced)(params)

    made = found("zero1")
    jax.tree.map(np.testing.assert_array_equal, made, params)
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(made))
    with jax.set_mesh(mesh), gathering(mesh, "fsdp"):
        assert whole_again(params) is params
    with jax.set_mesh(mesh):
        assert whole_again(params) is params, "nothing was said of gathering"


@pytest.mark.parametrize(
    ("axes", "strategy", "expected"),
    [
        ({"fsdp": 8}, "fsdp", 0),
        ({"data": 2, "fsdp": 4}, None, 0),
        ({"fsdp": 8}, "zero1", None),
        ({"fsdp": 8}, "zero2", 0),
        ({"data": 8}, "data", None),
        ({"fsdp": 4, "tensor": 2}, None, None),
        ({"fsdp": 4, "context": 2}, None, None),
    ],
    ids=str,
)
def test_which_gradients_are_scattered(
    axes: dict[str, int], strategy: Any, expected: int | None
) -> None:
    mesh = make_mesh(MeshConfig(**{"data": 1, **axes}))
    with jax.set_mesh(mesh):
        assert split_of(LAYER, (16, 64)) is None, "nothing was said of gathering"
        with gathering(mesh, strategy):
            assert split_of(LAYER, (16, 64)) == expected
            assert split_of(LAYER, (15, 64)) is None, "the axis does not divide it"
            assert split_of("decoder/block/attention/query_norm/scale", (16,)) is None
