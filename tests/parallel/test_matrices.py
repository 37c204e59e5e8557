"""What needs whole matrices, on meshes that split them, against the same on one device."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from rtdlm.config import MeshConfig
from rtdlm.parallel import make_mesh, on_whole_matrices

LAST_TWO = ((-2,), (-1,))
# Shape, how it lies, and axes of rows and columns; eight never divides how many matrices there are.
ARRAYS: dict[str, tuple[tuple[int, ...], tuple[str | None, ...], Any]] = {
    "wide": ((3, 8, 24), (None, "fsdp", "tensor"), LAST_TWO),
    "tall": ((2, 24, 8), (None, "tensor", "fsdp"), LAST_TWO),
    "alone": ((8, 24), ("fsdp", "tensor"), LAST_TWO),
    "square": ((3, 16, 16), (None, "fsdp", "tensor"), LAST_TWO),
    "square, apart the other way": ((2, 16, 16), (None, "tensor", "fsdp"), LAST_TWO),
    "heads": ((2, 8, 8, 3), (None, "fsdp", "tensor", None), ((-3,), (-2, -1))),
    "a side's second dimension": ((2, 3, 8, 16), (None, None, "tensor", "fsdp"), ((-3, -2), (-1,))),
    "experts": ((3, 4, 8, 24), (None, "expert", "fsdp", "tensor"), LAST_TWO),
    "split one way": ((5, 16, 10), (None, "fsdp", None), LAST_TWO),
}


def cubed(matrices: jax.Array) -> jax.Array:
    """X X^T X / |X|^2, and zero for zero."""
    size = jnp.sum(jnp.square(matrices), axis=(-1, -2), keepdims=True)
    return jnp.einsum("smn,skn,skl->sml", matrices, matrices, matrices) / jnp.maximum(size, 1e-9)


@pytest.mark.parametrize(
    "sizes",
    [{"fsdp": 8}, {"tensor": 8}, {"fsdp": 4, "tensor": 2}, {"fsdp": 2, "tensor": 2, "expert": 2}],
    ids=str,
)
def test_every_matrix_is_that_of_one_device_whatever_splits_it(sizes: dict[str, int]) -> None:
    mesh = make_mesh(MeshConfig(**{"data": -1, **sizes}))
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=shape).astype(np.float32) for shape, _, _ in ARRAYS.values()]
    specs = [PartitionSpec(*axes) for _, axes, _ in ARRAYS.values()]
    sides = [each for _, _, each in ARRAYS.values()]
    seen: list[tuple[int, ...]] = []

    def noted(matrices: jax.Array) -> jax.Array:
        seen.append(matrices.shape)
        return cubed(matrices)

    def split(arrays: list[jax.Array]) -> list[jax.Array]:
        return on_whole_matrices(noted, arrays, specs=specs, sides=sides)

    lie = [NamedSharding(mesh, spec) for spec in specs]
    with jax.set_mesh(mesh):
        found = jax.jit(split, in_shardings=(lie,), out_shardings=lie)(arrays)
    for name, array, got in zip(ARRAYS, arrays, found, strict=True):
        dims = tuple(range(array.ndim))
        lead = len(dims) - sum(map(len, ARRAYS[name][2]))
        rows = np.prod([array.shape[dim] for dim in ARRAYS[name][2][0]])
        matrices = array.reshape(*array.shape[:lead], rows, -1)
        expected = cubed(matrices.reshape(-1, *matrices.shape[-2:])).reshape(array.shape)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6, err_msg=name)
    # Wide, tall, alone, heads and a device's experts are one stack.
    own = -(-(3 + 2 + 1 + 2 + 3 * 4 // sizes.get("expert", 1)) // (8 // sizes.get("expert", 1)))
    assert (own, 8, 24) in seen


def test_a_result_travels_in_its_own_format() -> None:
    mesh = make_mesh(MeshConfig(fsdp=8))
    spec = PartitionSpec(None, "fsdp")

    def half(matrices: jax.Array) -> jax.Array:
        return cubed(matrices).astype(jnp.bfloat16)

    def function(array: jax.Array) -> jax.Array:
        return on_whole_matrices(half, [array], specs=[spec], sides=[LAST_TWO])[0]

    with jax.set_mesh(mesh):
        lowered = jax.jit(function).lower(jax.ShapeDtypeStruct((8, 16, 24), jnp.float32)).as_text()
    given = [line for line in lowered.splitlines() if "all_to_all" in line]
    assert ["xbf16>" in line for line in given] == [False, True]
