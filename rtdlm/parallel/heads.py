"""Attention where it lies: every device computes its own rows and heads.

XLA's partitioner, left to itself, gathers all heads on every device as soon as rows and heads
become one axis, and then each computes the attention of all.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec

from rtdlm.parallel.constrain import axis_size, on_one_device, row_groups
from rtdlm.parallel.mesh import BATCH_AXES


def on_own_heads(
    function: Callable[..., jax.Array],
    heads: tuple[jax.Array, ...],
    rows: Any,
    *,
    split_heads: bool = True,
) -> jax.Array:
    """`function(heads, rows)`, `[B, T, H, E]`, computed apart by the devices that hold the parts.

    Args:
        function: of each row and head for itself; no array of its own.
        heads: `[B, T, heads, ...]`: queries, and what numbers of heads that divide theirs have; T
            is whole on every device.
        rows: a tree of arrays that lead with B, or with 1 for all rows.
        split_heads: False where a head must know which one it is.
    """
    if on_one_device():
        return function(heads, rows)
    batch = len(heads[0])
    over_rows = BATCH_AXES if row_groups(batch) > 1 else None
    over_heads = "tensor" if split_heads and _divide(heads) else None
    # Rows are whole here, so that `context` has one device; unnamed, it would be summed over.
    of_heads = PartitionSpec(over_rows, "context", over_heads)
    of_rows = jax.tree.map(lambda x: PartitionSpec(over_rows if len(x) == batch else None), rows)
    local = jax.shard_map(
        function, in_specs=((of_heads,) * len(heads), of_rows), out_specs=of_heads, check_vma=False
    )
    return local(heads, rows)


def _divide(heads: tuple[jax.Array, ...]) -> bool:
    return all(x.shape[2] % axis_size("tensor") == 0 for x in heads)
