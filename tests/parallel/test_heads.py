"""Heads that lie on devices of their own, also with more devices than key-value heads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.config import MeshConfig
from rtdlm.modules.attention import attend_causally, causal_mask
from rtdlm.parallel import heads_split, make_mesh, on_own_heads
from rtdlm.parallel.flops import product_flops
from rtdlm.parallel.hlo import parse_program

BATCH, LENGTH, WIDTH = 2, 16, 4


def read(qkv: tuple[jax.Array, ...], segments: jax.Array) -> jax.Array:
    return attend_causally(*qkv, causal_mask(segments))


@pytest.mark.parametrize(
    ("queries", "others", "groups", "share"),
    [
        (8, 4, True, 1 / 4),
        (8, 2, True, 1 / 4),
        (8, 1, True, 1 / 4),
        (12, 6, True, 1 / 4),  # twelve key-value heads are the fewest that four divides
        (6, 2, True, 1),
        (8, 2, False, 1),
        (8, 4, False, 1 / 4),
    ],
)
def test_each_device_computes_its_share(
    queries: int, others: int, groups: bool, share: float
) -> None:
    rng = np.random.default_rng(0)
    shapes = [(BATCH, LENGTH, heads, WIDTH) for heads in (queries, others, others)]
    qkv = tuple(jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)
    segments = jnp.asarray([[1] * LENGTH, [1] * 5 + [2] * (LENGTH - 5)], jnp.int32)

    def both(function, *given):
        """Value and gradients, whose sum holds every head apart."""
        value, pull_back = jax.vjp(function, *given)
        return value, pull_back(jnp.cos(value))

    alone = jax.jit(lambda *given: both(lambda *q: read(q, segments), *given))
    mesh = make_mesh(MeshConfig(data=2, tensor=4))
    with jax.set_mesh(mesh):
        spread = jax.jit(
            lambda *given: both(
                lambda *q: on_own_heads(read, q, segments, split_groups=groups), *given
            )
        )
        compiled = spread.lower(*qkv).compile()
        found = compiled(*qkv)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(alone(*qkv)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert heads_split(queries, others, others, ways=4, split_groups=groups) == (share < 1)
    whole, own = (
        product_flops(parse_program(program.as_text()))
        for program in (alone.lower(*qkv).compile(), compiled)
    )
    assert own == pytest.approx(whole * share / 2), "half of the rows, and of these its heads"
