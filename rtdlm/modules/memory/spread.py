"""A store that is split by its slots, for batches whose rows are too few for the devices.

Rows lie along the mesh's batch axes, and with them their stores. Where rows do not divide by these,
as a single one does not, and slots do, those are split: every device keeps and scores its own, puts
forward its own `top_k` best, and the best of all that were put forward are read.

Axes: B batch, M slots.
"""

from math import prod
from typing import Any

import jax
from jax.sharding import PartitionSpec

from rtdlm.modules.memory.read import Reading, read_store
from rtdlm.modules.memory.store import Store
from rtdlm.parallel import BATCH_AXES, axis_size, constrain


def read_spread(query_BTHE: jax.Array, store: Store, label_BT: jax.Array, **kept: Any) -> Reading:
    """`read_store` of a store that may be split; arguments as there, less `axis`."""
    if not _is_split(store):
        return read_store(query_BTHE, store, label_BT, **kept)
    arrays = {name: x for name, x in kept.items() if isinstance(x, jax.Array)}
    rest = {name: x for name, x in kept.items() if name not in arrays}

    def read(query: jax.Array, store: Store, label: jax.Array, arrays: Any) -> tuple[Any, ...]:
        return tuple(read_store(query, store, label, **arrays, **rest, axis=BATCH_AXES))

    whole, slots = PartitionSpec(), PartitionSpec(None, BATCH_AXES)
    split = jax.tree.map(lambda x: slots if x.ndim > 1 else whole, store)
    found = jax.shard_map(
        read,
        in_specs=(whole, split, whole, whole),
        out_specs=(whole, slots, whole),
        axis_names=set(BATCH_AXES),
    )(query_BTHE, store, label_BT, arrays)
    return Reading(*found)


def keep_spread(store: Store) -> Store:
    """`store`, of which each device is to keep its own slots; as it is where rows are split."""
    if not _is_split(store):
        return store
    return Store(*(_slots_split(x) if x.ndim > 1 else x for x in store))


def _slots_split(x_BM: jax.Array) -> jax.Array:
    return constrain(x_BM, None, "batch", *("any",) * (x_BM.ndim - 2))  # heads lie over `tensor`


def _is_split(store: Store) -> bool:
    rows, slots = store.label_BM.shape
    ways = prod(map(axis_size, BATCH_AXES))
    return rows % ways != 0 and slots % ways == 0
