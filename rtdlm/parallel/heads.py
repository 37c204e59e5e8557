"""Attention where it lies: every device computes its own rows and heads.

XLA's partitioner, left to itself, gathers all heads on every device as soon as rows and heads
become one axis, and then each computes the attention of all.
"""

from collections.abc import Callable
from math import lcm
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from rtdlm.parallel.constrain import axis_size, on_one_device, row_groups
from rtdlm.parallel.mesh import BATCH_AXES


def on_own_heads(
    function: Callable[..., jax.Array],
    heads: tuple[jax.Array, ...],
    rows: Any,
    *,
    split_heads: bool = True,
    split_groups: bool = True,
) -> jax.Array:
    """`function(heads, rows)`, `[B, T, H, E]`, computed apart by the devices that hold the parts.

    Where the devices divide the queries' heads and not the others, the others are repeated until
    they do, so that some lie on several devices, as in Megatron-LM. Where not even the queries' do,
    every device computes all heads.

    Args:
        function: of each row and head for itself; no array of its own.
        heads: `[B, T, heads, ...]`: queries, and what numbers of heads that divide theirs have; T
            is whole on every device.
        rows: a tree of arrays that lead with B, or with 1 for all rows.
        split_heads: False where a head must know which one it is.
        split_groups: False where the queries of a key-value head must be together.
    """
    if on_one_device():
        return function(heads, rows)
    batch, ways = len(heads[0]), axis_size("tensor")
    over_rows = BATCH_AXES if row_groups(batch) > 1 else None
    over_heads = None
    if split_heads and heads_split(
        *(x.shape[2] for x in heads), ways=ways, split_groups=split_groups
    ):
        over_heads, heads = "tensor", tuple(_repeated(x, ways) for x in heads)
    # Rows are whole here, so that `context` has one device; unnamed, it would be summed over.
    of_heads = PartitionSpec(over_rows, "context", over_heads)
    of_rows = jax.tree.map(lambda x: PartitionSpec(over_rows if len(x) == batch else None), rows)
    local = jax.shard_map(
        function, in_specs=((of_heads,) * len(heads), of_rows), out_specs=of_heads, check_vma=False
    )
    return local(heads, rows)


def heads_split(queries: int, *others: int, ways: int, split_groups: bool = True) -> bool:
    """Whether each of `ways` devices computes heads of its own.

    Args:
        queries: number of query heads.
        others: numbers of heads that divide it.
        ways: devices.
        split_groups: whether the queries of a key-value head may lie on several devices.
    """
    return queries % ways == 0 and (split_groups or all(count % ways == 0 for count in others))


def _repeated(x: jax.Array, ways: int) -> jax.Array:
    count = x.shape[2]
    times = lcm(count, ways) // count
    return x if times == 1 else jnp.repeat(x, times, axis=2)
