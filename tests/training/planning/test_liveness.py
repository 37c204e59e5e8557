"""Peaks of traced functions whose memory can be told by hand; in units of one [N, N] matrix."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas

from rtdlm.training.planning.liveness import peak_memory
from rtdlm.training.planning.packing import Span, packed_size

N, L = 32, 5
UNIT = N * N * 4


def peak(function: Callable[..., Any], *shapes: tuple[int, ...], **more: Any) -> float:
    given = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return peak_memory(jax.make_jaxpr(function)(*given).jaxpr, **more).bytes / UNIT


def scanned(x: jax.Array, w: jax.Array, unroll: int = 1) -> jax.Array:
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w, unroll=unroll)[0]


def test_what_is_elementwise_is_never_written() -> None:
    assert peak(lambda x: jnp.sum(jnp.exp(jnp.sin(x)) * x + 1.0), (N, N)) < 0.01


def test_a_chain_of_products_needs_two_at_a_time() -> None:
    assert peak(lambda x: x @ x @ x @ x @ x, (N, N)) == 2


def test_a_sum_of_products_needs_both() -> None:
    # Both products, and the sum in place of one of them.
    assert peak(lambda x, w: x @ w + w @ x, (N, N), (N, N)) == 2


def test_a_result_that_nobody_reads_is_not_made() -> None:
    assert peak(lambda x: (x @ x @ x @ x, x)[1], (N, N)) == 0


def test_a_loops_gradient_keeps_what_it_reads_again() -> None:
    gradient = jax.grad(lambda x, w: jnp.sum(scanned(x, w)), argnums=1)
    found = peak(gradient, (N, N), (L, N, N))
    # Every turn's input and output, and the stack of gradients; a few more in the turn itself.
    assert 3 * L <= found <= 3 * L + 8


def test_recomputing_keeps_less() -> None:
    def loss(x: jax.Array, w: jax.Array) -> jax.Array:
        turn = jax.checkpoint(lambda x, w: jnp.tanh(jnp.tanh(x @ w) @ w))
        return jnp.sum(jax.lax.scan(lambda x, w: (turn(x, w), None), x, w)[0])

    found = peak(jax.grad(loss, argnums=1), (N, N), (L, N, N))
    assert 2 * L <= found <= 2 * L + 8  # every turn's input, and gradients


def test_a_loop_written_out_is_as_its_turns() -> None:
    def unrolled(x: jax.Array, w: jax.Array) -> jax.Array:
        for layer in range(L):
            x = jnp.tanh(x @ w[layer])
        return x

    loops = [lambda x, w: scanned(x, w, L), unrolled]
    gradients = [jax.grad(lambda x, w, f=f: jnp.sum(f(x, w))) for f in loops]
    found = [peak(gradient, (N, N), (L, N, N)) for gradient in gradients]
    assert found[0] == pytest.approx(found[1], abs=1)


def test_a_share_of_a_result_is_what_stays() -> None:
    gradient = jax.grad(lambda x, w: jnp.sum(scanned(x, w)), argnums=1)
    whole, quarter = (peak(gradient, (N, N), (L, N, N), shares=[share]) for share in (1.0, 0.25))
    assert whole - quarter == pytest.approx(0.75 * L)


def test_a_gathered_argument_is_there_from_its_first_reading_to_its_last() -> None:
    function = lambda x, w: (x @ w) @ x @ x  # noqa: E731
    assert peak(function, (N, N), (N, N)) == 2
    assert peak(function, (N, N), (N, N), lazy=[0.0, 4 * UNIT]) == 5


def test_a_loop_has_all_of_a_gathered_argument_that_its_turns_share() -> None:
    def loop(x: jax.Array, w: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda x, _: (x @ w, None), x, None, length=L)[0]

    assert peak(loop, (N, N), (N, N), lazy=[0.0, 4 * UNIT]) == peak(loop, (N, N), (N, N)) + 4


def test_a_row_of_a_gathered_argument_is_gathered_for_each_reading() -> None:
    gradient = jax.grad(lambda x, w: jnp.sum(scanned(x, w, L)))
    kept = peak(gradient, (N, N), (L, N, N))
    gathered = peak(gradient, (N, N), (L, N, N), lazy=[0.0, L * UNIT])
    assert kept - gathered == L - 1  # all rows from forward to back; one at a time


def test_operations_run_as_results_need_them() -> None:
    def sides(x: jax.Array) -> tuple[list[jax.Array], jax.Array]:
        found = []
        for _ in range(L):
            x = x @ x
            found.append(jnp.sum(x @ x))
        return found, x

    # The chain to its end, each link of which waits for its square; or link by link.
    assert peak(lambda x: sides(x)[::-1], (N, N)) == pytest.approx(L + 1, abs=0.01)
    assert peak(sides, (N, N)) == pytest.approx(2, abs=0.01)


def test_what_stands_at_a_barrier_is_written() -> None:
    def loss(x: jax.Array) -> jax.Array:
        return jnp.sum(jax.lax.optimization_barrier(jnp.exp(x)) * x)

    assert peak(loss, (N, N)) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("spans", "size"),
    [
        ([], 0),
        ([Span(0, 1, 3), Span(2, 3, 4)], 4),  # one after the other
        ([Span(0, 2, 3), Span(2, 3, 4)], 7),  # both are there at 2
        # At most 8 are alive at a time, but the one of 4 lies across what the one of 5 leaves.
        ([Span(0, 1, 3), Span(0, 2, 4), Span(2, 3, 4)], 8),
    ],
)
def test_buffers_alive_together_lie_apart(spans: list[Span], size: float) -> None:
    assert packed_size(spans) == size


def test_a_kernel_reads_and_writes_memory() -> None:
    def double(x: jax.Array) -> jax.Array:
        def kernel(x_ref: Any, out_ref: Any) -> None:
            out_ref[...] = 2.0 * x_ref[...]

        made: jax.Array = pallas.pallas_call(kernel, out_shape=x)(x)
        return made

    # What it reads, made by elementwise operations, and its result.
    assert peak(lambda x: jnp.sum(double(jnp.exp(x))), (N, N)) == pytest.approx(2, abs=0.01)
