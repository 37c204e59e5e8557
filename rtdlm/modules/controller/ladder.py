"""Running a function on the rows that still need it, and saving the time of the others.

A compiled program has fixed shapes, so the rows that are left are moved together and padded up to
the next rung of a short ladder of sizes; each rung is one branch of the program:

    rungs of N rows   N, 3N/4, N/2, 3N/8, N/4, N/8, N/16

Every active row's result is what it is alone, to the last bit where the function's rows do not
depend on how many there are. Masking instead (computing all rows and keeping some) saves nothing,
and a loop until all are done saves only where all are done at once.

Axes: N rows, M rows of a rung.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

SHARES = (1.0, 0.75, 0.5, 0.375, 0.25, 0.125, 0.0625)
Branches = Sequence[Callable[..., Any]]
Switch = Callable[..., Any]
"""As `jax.lax.switch`; within a Haiku module as `hk.switch`, in whose branches no parameter can be
made: where `hk.running_init()`, call the function itself on all rows instead."""


def rungs(count: int, *, shares: Sequence[float] = SHARES) -> tuple[int, ...]:
    """Sizes of the ladder for `count` rows, the largest first."""
    return tuple(dict.fromkeys(max(1, round(count * share)) for share in shares))


def rung_of(active: jax.Array, sizes: Sequence[int]) -> jax.Array:
    """int32: place of the smallest size with room for `active` rows; past the last for none."""
    enough = jnp.sum((jnp.asarray(sizes) >= active).astype(jnp.int32)) - 1
    return jnp.where(active > 0, enough, len(sizes))


def run_active(
    function: Callable[[Any, jax.Array], Any],
    rows: Any,
    active_N: jax.Array,
    *,
    sizes: Sequence[int] | None = None,
    switch: Switch = jax.lax.switch,
) -> Any:
    """`rows` with `function` of those that are active in their place.

    Args:
        function: (rows of any number M, int32 `[M]` places among all) -> rows of the same shapes.
        rows: arrays with a first axis N.
        active_N: bool.
        sizes: the ladder, N first and falling; None is `rungs` of N.
        switch: what chooses the branch.
    """
    count = active_N.shape[0]
    ladder = rungs(count) if sizes is None else tuple(sizes)
    assert ladder[0] == count and ladder == tuple(sorted(ladder, reverse=True)), (
        f"a ladder of {count} rows begins with {count} and falls: {ladder}"
    )
    place_N = jnp.argsort(~active_N, stable=True)

    def branch(size: int) -> Callable[[Any], Any]:
        place_M = place_N[:size]

        def run(rows: Any) -> Any:
            own = jax.tree.map(lambda x: x[place_M], rows)
            done = function(own, place_M)

            def put(old: jax.Array, before: jax.Array, new: jax.Array) -> jax.Array:
                kept_M = active_N[place_M].reshape(-1, *[1] * (new.ndim - 1))
                return old.at[place_M].set(jnp.where(kept_M, new, before))

            return jax.tree.map(put, rows, own, done)

        return run

    branches = [branch(size) for size in ladder] + [lambda rows: rows]
    return switch(rung_of(jnp.sum(active_N.astype(jnp.int32)), ladder), branches, rows)
