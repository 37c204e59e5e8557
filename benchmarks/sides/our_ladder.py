"""Rows that need a step a different number of times, in ways that give the same rows.

Axes: N rows, D features, F hidden, R steps.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.child import Answer, Spec, time_blocks
from rtdlm.modules.controller import run_active

GEOMETRIC = 0.39
"""Chance of stopping after a step: a mean of 2.5 of 8."""
Run = Callable[["Step", jax.Array, jax.Array], jax.Array]
"""(step, rows, steps that each needs) -> rows."""


class Step(NamedTuple):
    """The weights of one step."""

    up_DF: jax.Array
    down_FD: jax.Array

    def __call__(self, x_ND: jax.Array) -> jax.Array:
        """Rows after one step more."""
        return x_ND + jax.nn.gelu(x_ND @ self.up_DF) @ self.down_FD


def measure(spec: Spec) -> Answer:
    """Times one way of running the steps.

    Spec: `kind`, `needs`, `rows`, `features`, `hidden`, `steps`, `seconds`. Answer: `wall` and
    `cpu` of all steps [s], `mean` of the steps needed, and `apart`, the largest difference to what
    `each` gives, of which 0 is the same to the bit.
    """
    rng = np.random.default_rng(0)
    rows, features, hidden = spec["rows"], spec["features"], spec["hidden"]
    x_ND = jnp.asarray(rng.normal(size=(rows, features)), jnp.float32)
    spread_D, spread_F = features**-0.5, hidden**-0.5
    step = Step(
        jnp.asarray(rng.normal(0, spread_D, (features, hidden)), jnp.float32),
        jnp.asarray(rng.normal(0, spread_F, (hidden, features)), jnp.float32),
    )
    need_N = needed(spec["needs"], rows, steps=spec["steps"])
    run = jax.jit(way(spec["kind"], need_N, spec["steps"]))
    truth = jax.jit(each(spec["steps"]))
    given = (step, x_ND, jnp.asarray(need_N))

    def advance(count: int) -> None:
        for _ in range(count):
            jax.block_until_ready(run(*given))

    apart = float(jnp.max(jnp.abs(run(*given) - truth(*given))))
    told = {"mean": float(need_N.mean()), "apart": apart}
    return time_blocks(advance, seconds=spec["seconds"]) | told


def needed(name: str, rows: int, *, steps: int) -> np.ndarray:
    """int32 `[N]`: steps from 1 to `steps` that each row needs; the same every time."""
    rng = np.random.default_rng(1)
    match name:
        case "geometric":
            found = np.minimum(rng.geometric(GEOMETRIC, rows), steps)
        case "uniform":
            found = rng.integers(1, steps + 1, rows)
        case _:
            found = np.full(rows, 2)
    return found.astype(np.int32)


def way(kind: str, need_N: np.ndarray, steps: int) -> Run:
    """How the steps are run; only `ideal` looks at `need_N`."""
    match kind:
        case "ideal":
            return ideal(need_N)
        case "fixed":
            return fixed(steps)
        case "masked":
            return masked(steps)
        case "loop":
            return loop
        case _:
            return ladder(steps)


def ideal(known_N: np.ndarray) -> Run:
    """Rows sorted by need, so that those of every step are the first."""
    order_N = np.argsort(-known_N, kind="stable")
    counts = [int((known_N > step).sum()) for step in range(known_N.max())]

    def run(step: Step, x_ND: jax.Array, _: jax.Array) -> jax.Array:
        left_ND, done = x_ND[order_N], []
        for count in counts:
            done.append(left_ND[count:])
            left_ND = step(left_ND[:count])
        return jnp.concatenate([left_ND, *done[::-1]])[np.argsort(order_N)]

    return run


def fixed(steps: int) -> Run:
    """All rows after all steps, whatever they need."""

    def run(step: Step, x_ND: jax.Array, _: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda x, _: (step(x), None), x_ND, None, length=steps)[0]

    return run


def each(steps: int) -> Run:
    """All rows after every step, of which each is taken after its own: what is right."""

    def run(step: Step, x_ND: jax.Array, need_N: jax.Array) -> jax.Array:
        _, after_RND = jax.lax.scan(lambda x, _: (step(x),) * 2, x_ND, None, length=steps)
        return jnp.take_along_axis(after_RND, (need_N - 1)[None, :, None], axis=0)[0]

    return run


def masked(steps: int) -> Run:
    """All rows, of which some keep their value."""

    def run(step: Step, x_ND: jax.Array, need_N: jax.Array) -> jax.Array:
        def one(x_ND: jax.Array, number: jax.Array) -> tuple[jax.Array, None]:
            return jnp.where((number < need_N)[:, None], step(x_ND), x_ND), None

        return jax.lax.scan(one, x_ND, jnp.arange(steps))[0]

    return run


def loop(step: Step, x_ND: jax.Array, need_N: jax.Array) -> jax.Array:
    """As masked, for as many steps as the neediest row takes."""

    def one(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        number, x_ND = state
        return number + 1, jnp.where((number < need_N)[:, None], step(x_ND), x_ND)

    return jax.lax.while_loop(lambda state: jnp.any(state[0] < need_N), one, (jnp.int32(0), x_ND))[
        1
    ]


def ladder(steps: int) -> Run:
    """Only the rows that need the step, padded to a rung."""

    def run(step: Step, x_ND: jax.Array, need_N: jax.Array) -> jax.Array:
        def one(x_ND: jax.Array, number: jax.Array) -> tuple[jax.Array, None]:
            return run_active(lambda x_MD, _: step(x_MD), x_ND, number < need_N), None

        return jax.lax.scan(one, x_ND, jnp.arange(steps))[0]

    return run
