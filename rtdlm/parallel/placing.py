"""Host arrays onto the devices of all hosts, each host putting its own part."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

Index = tuple[slice, ...]


def put(tree: Any, shardings: Any) -> Any:
    """`tree` of host arrays, which every process has whole, as `shardings` say.

    Args:
        tree: NumPy arrays, or what is indexed like them and has a shape and a type; only the parts
            that lie on this process's devices are read.
        shardings: one for all leaves, or a tree of them.
    """
    if isinstance(shardings, NamedSharding):
        shardings = jax.tree.map(lambda _: shardings, tree)
    return jax.tree.map(_put, tree, shardings)


def _put(leaf: Any, sharding: NamedSharding) -> jax.Array:
    if hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        words = _put(np.asarray(jax.random.key_data(leaf)), sharding)
        return jax.random.wrap_key_data(words, impl=jax.random.key_impl(leaf))
    if sharding.is_fully_addressable:
        return jax.device_put(leaf if isinstance(leaf, jax.Array) else np.asarray(leaf), sharding)
    return jax.make_array_from_callback(leaf.shape, sharding, lambda index: np.asarray(leaf[index]))


def own_rows(sharding: NamedSharding, shape: tuple[int, ...]) -> tuple[int, int]:
    """First row, and the one after the last, that devices of this process hold of an array."""
    found = sharding.addressable_devices_indices_map(shape).values()
    spans = [index[0].indices(shape[0])[:2] for index in found if index is not None]
    return min(start for start, _ in spans), max(stop for _, stop in spans)


def put_rows(
    read: Callable[[int, int], Any], sharding: NamedSharding, shape: tuple[int, ...]
) -> Any:
    """A tree of arrays of `shape`, of which only the rows that this process holds are read.

    Args:
        read: gives the rows from its first argument to before its second, as a tree.
        sharding: of all arrays of the tree.
        shape: of the whole arrays, over all hosts.
    """
    first, last = own_rows(sharding, shape)
    rows = read(first, last)

    def place(own: np.ndarray) -> jax.Array:
        def part(index: Index | None) -> np.ndarray:
            assert index is not None
            start, stop, _ = index[0].indices(shape[0])
            return own[(slice(start - first, stop - first), *index[1:])]

        return jax.make_array_from_callback(shape, sharding, part)

    return jax.tree.map(place, rows)
