"""The ladder as literal tables, and what it computes against computing everything."""

from collections.abc import Callable
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.modules.controller import run_active, rung_of, rungs
from rtdlm.modules.primitives import Projection

N, D = 16, 5


def rows(seed: int = 0) -> jax.Array:
    return jax.device_put(np.random.default_rng(seed).normal(size=(N, D)).astype(np.float32))


def active(count: int, seed: int = 0) -> jax.Array:
    """`count` of the rows, anywhere."""
    return jax.device_put(np.random.default_rng(seed).permutation(N) < count)


def wave(x: jax.Array, place: jax.Array) -> jax.Array:
    """A row's result depends on the row and its place alone."""
    return jnp.sin(3 * x) + place[:, None].astype(jnp.float32)


@pytest.mark.parametrize(
    ("count", "sizes"),
    [
        (1024, (1024, 768, 512, 384, 256, 128, 64)),
        (16, (16, 12, 8, 6, 4, 2, 1)),
        (3, (3, 2, 1)),
        (1, (1,)),
    ],
)
def test_rungs(count: int, sizes: tuple[int, ...]) -> None:
    assert rungs(count) == sizes


def test_the_rung_is_the_smallest_with_room() -> None:
    found = [int(rung_of(jnp.int32(count), rungs(16))) for count in range(17)]
    assert found == [7, 6, 5, 4, 4, 3, 3, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize("sizes", [(8, 4), (4, 16), (32, 16)])
def test_a_ladder_without_room_for_all_or_out_of_order_is_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(AssertionError, match="ladder"):
        run_active(wave, rows(), active(2), sizes=sizes)


@pytest.mark.parametrize("sizes", [None, (16, 5)])
def test_any_number_of_active_rows_is_as_masking_to_the_bit(sizes: tuple[int, ...] | None) -> None:
    run = jax.jit(lambda x, on: run_active(wave, x, on, sizes=sizes))
    masked = jax.jit(lambda x, on: jnp.where(on[:, None], wave(x, jnp.arange(N)), x))
    for count in range(N + 1):
        on = active(count, seed=count)
        found = np.asarray(run(rows(), on))
        np.testing.assert_array_equal(found, masked(rows(), on))
        changed = (found != np.asarray(rows())).any(axis=1)
        np.testing.assert_array_equal(changed, on)


def test_no_more_rows_are_computed_than_the_rung_holds() -> None:
    seen: list[int] = []

    def told(x: jax.Array, place: jax.Array) -> jax.Array:
        jax.debug.callback(lambda size: seen.append(int(size)), len(place))
        return x + 1

    run = jax.jit(lambda x, on: run_active(told, x, on))
    for count in (0, 1, 2, 5, 9, 16):
        jax.block_until_ready(run(rows(), active(count)))
        jax.effects_barrier()
    assert seen == [1, 2, 6, 12, 16]


def test_trees_of_rows_of_any_rank() -> None:
    tree = {"a": rows(), "b": (jnp.arange(N), jax.random.normal(jax.random.key(1), (N, 2, 3)))}

    def step(tree: Any, place: jax.Array) -> Any:
        return {"a": 2 * tree["a"], "b": (tree["b"][0] + place, tree["b"][1] ** 2)}

    on = active(7)
    found = jax.jit(lambda tree, on: run_active(step, tree, on))(tree, on)
    every = step(tree, jnp.arange(N))

    def held(new: jax.Array, old: jax.Array, got: jax.Array) -> None:
        np.testing.assert_array_equal(
            got, jnp.where(on.reshape(-1, *[1] * (new.ndim - 1)), new, old)
        )

    jax.tree.map(held, every, tree, found)


def test_rows_that_halt_one_after_another_in_a_scan() -> None:
    need = jax.random.randint(jax.random.key(5), (N,), 0, 6)

    def body(state: jax.Array, step: jax.Array) -> tuple[jax.Array, None]:
        return run_active(lambda x, place: x + 1, state, step < need), None

    found, _ = jax.jit(lambda x: jax.lax.scan(body, x, jnp.arange(8)))(jnp.zeros((N, 1), jnp.int32))
    np.testing.assert_array_equal(found[:, 0], need)


def test_gradients_reach_active_rows_through_the_function_and_others_past_it() -> None:
    on = active(6)
    slope = jax.grad(lambda x: jnp.sum(run_active(lambda x, _: 3 * x, x, on)))(rows())
    np.testing.assert_array_equal(slope, jnp.where(on[:, None], 3.0, 1.0) * jnp.ones((1, D)))


def test_inside_a_haiku_module() -> None:
    def build(x: jax.Array, on: jax.Array) -> jax.Array:
        core = Projection("ND,DE->NE", shape=(D, D), bias=True, name="core")

        def step(x: jax.Array, place: jax.Array) -> jax.Array:
            return jnp.tanh(core(x))

        if hk.running_init():
            return step(x, jnp.arange(N))
        return run_active(step, x, on, switch=hk.switch)

    net = hk.without_apply_rng(hk.transform(build))
    params = net.init(jax.random.key(0), rows(), active(3))
    assert set(params) == {"core"}
    run: Callable[..., jax.Array] = jax.jit(net.apply)
    every = jnp.tanh(rows() @ params["core"]["w"] + params["core"]["b"][None])
    for count in (0, 1, 5, N):
        on = active(count)
        expected = jnp.where(on[:, None], every, rows())
        np.testing.assert_allclose(run(params, rows(), on), expected, atol=1e-6)
