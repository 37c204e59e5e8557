"""The k largest against NumPy's stable sort: few, many, equal ones, and what may not be chosen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from rtdlm.modules.primitives.largest import _candidates, largest


def expected(x: np.ndarray, k: int) -> np.ndarray:
    order = np.argsort(-x, axis=-1, kind="stable")[..., :k]
    mask = np.zeros(x.shape, bool)
    np.put_along_axis(mask, order, True, axis=-1)
    return mask & (x > -np.inf)


def numbers(kind: str, length: int) -> np.ndarray:
    rng = np.random.default_rng(length)
    x = rng.normal(size=(3, 4, length)).astype(np.float32)
    if kind == "equal":
        x = np.round(x)
    if kind == "same":
        x[:] = 0.5
    if kind == "barred":
        x[0, :, length // 3 :] = -np.inf
        x[1] = -np.inf
        x[2, :, 1:] = -np.inf
    return x


@pytest.mark.parametrize("kind", ["plain", "equal", "same", "barred"])
@pytest.mark.parametrize(("length", "k"), [(5, 8), (40, 3), (64, 1), (64, 2), (96, 6), (1024, 8)])
def test_they_are_those_of_a_stable_sort(kind: str, length: int, k: int) -> None:
    x = numbers(kind, length)
    found = jax.jit(largest, static_argnums=1)(jnp.asarray(x), k)
    np.testing.assert_array_equal(found, expected(x, k))


def test_of_many_numbers_few_are_searched() -> None:
    assert _candidates(jnp.zeros((2, 1024)), 8).shape == (2, 64)
    assert _candidates(jnp.zeros((2, 40)), 3).shape == (2, 40)


@pytest.mark.parametrize("kind", ["plain", "equal", "same", "barred"])
def test_devices_find_them_together(kind: str) -> None:
    x, mesh = numbers(kind, 512), jax.make_mesh((4,), ("slots",))
    split = PartitionSpec(None, None, "slots")
    find = jax.shard_map(
        lambda x: largest(x, 6, axis="slots"), mesh=mesh, in_specs=split, out_specs=split
    )
    found = jax.jit(find)(jax.device_put(x, NamedSharding(mesh, split)))
    np.testing.assert_array_equal(found, expected(x, 6))
