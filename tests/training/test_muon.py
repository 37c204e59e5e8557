"""Newton-Schulz against its polynomial in float64 and against what it is for; Muon's momentum, and
what it sends and computes where moments are split.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from rtdlm.config import MeshConfig
from rtdlm.parallel import make_mesh, partition_spec
from rtdlm.parallel.collectives import read_collectives
from rtdlm.parallel.flops import product_flops
from rtdlm.parallel.hlo import parse_program
from rtdlm.training import muon
from rtdlm.training.muon import MatrixAxes, MuonState, newton_schulz, scale_by_muon
from tests.training import optimizers as papers

SHAPES = [(6, 9), (9, 6), (7, 7), (1, 5), (5, 1), (3, 8, 12), (2, 3, 12, 8)]


def spread(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Random matrices whose singular values lie evenly between 0.1 and 1."""
    rng = np.random.default_rng(seed)
    u, values, v = np.linalg.svd(rng.normal(size=shape), full_matrices=False)
    return u @ (np.linspace(1.0, 0.1, values.shape[-1])[:, None] * v)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("steps", [1, 5])
def test_newton_schulz_is_its_polynomial(shape: tuple[int, ...], steps: int) -> None:
    x = spread(shape)
    actual = jax.jit(lambda x: newton_schulz(x, steps=steps, dtype=jnp.float32))(
        jnp.asarray(x, jnp.float32)
    )
    matrices = x.reshape(-1, *shape[-2:])
    expected = np.stack([papers.newton_schulz(matrix, steps) for matrix in matrices])
    np.testing.assert_allclose(actual, expected.reshape(shape), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [*SHAPES, (64, 160), (160, 64), (64, 64)], ids=str)
def test_in_bfloat16_singular_values_are_near_one_and_vectors_kept(shape: tuple[int, ...]) -> None:
    x = spread(shape)
    y = np.asarray(jax.jit(lambda x: newton_schulz(x, steps=5))(jnp.asarray(x, jnp.float32)))
    assert y.dtype == np.float32 and y.shape == shape
    values = np.linalg.svd(y, compute_uv=False)
    # The polynomial alone ends within 0.682 and 1.134 here; rounding moves that by a hundredth.
    assert 0.67 <= values.min() <= values.max() <= 1.15
    u, _, v = np.linalg.svd(x, full_matrices=False)
    turned = np.swapaxes(u, -1, -2) @ y @ np.swapaxes(v, -1, -2)
    # In the basis of its argument the result is diagonal, up to the rounding of five rounds.
    diagonal = turned * np.eye(turned.shape[-1])
    assert np.abs(turned - diagonal).max() < 0.02
    assert (np.diagonal(turned, axis1=-2, axis2=-1) > 0.6).all()


@pytest.mark.parametrize("momentum", [0.0, 0.95])
def test_the_direction_is_the_momentums_by_a_plain_loop(momentum: float) -> None:
    """m <- b m + (1 - b) g, u = NewtonSchulz(b m + (1 - b) g) sqrt(max(1, out / in))."""
    axes = {"wide": ((-2,), (-1,)), "heads": ((-3, -2), (-1,))}
    shapes = {"wide": (2, 6, 10), "heads": (3, 4, 6)}
    muon = scale_by_muon(lambda path: axes[path], momentum=momentum, steps=5)
    rng = np.random.default_rng(0)
    state = muon.init({name: jnp.zeros(shape) for name, shape in shapes.items()})
    mean = {name: np.zeros(shape) for name, shape in shapes.items()}
    for _ in range(3):
        grads = {name: rng.normal(size=shape) for name, shape in shapes.items()}
        given = {name: jnp.asarray(grad, jnp.float32) for name, grad in grads.items()}
        updates, state = muon.update(given, state)
        for name, grad in grads.items():
            mean[name] = momentum * mean[name] + (1 - momentum) * grad
            np.testing.assert_allclose(state.mean[name], mean[name], rtol=1e-5, atol=1e-6)
            ahead = momentum * mean[name] + (1 - momentum) * grad
            matrices = ahead.reshape((2, 6, 10) if name == "wide" else (1, 12, 6))
            scale = (10 / 6) ** 0.5 if name == "wide" else 1.0
            expected = scale * np.stack([papers.newton_schulz(m, 5) for m in matrices])
            error = np.asarray(updates[name]).reshape(matrices.shape) - expected
            # The iteration is in bfloat16: eight bits in each of five rounds.
            assert np.linalg.norm(error) < 0.025 * np.linalg.norm(expected)


IN, OUT, PLAIN = ((-3,), (-2, -1)), ((-3, -2), (-1,)), ((-2,), (-1,))
LAYERS = "decoder/layers/block/"
# Eight divides neither three layers nor the matrices of any one shape.
MATRICES: dict[str, tuple[tuple[int, ...], MatrixAxes]] = {
    f"{LAYERS}attention/query/w": ((3, 32, 4, 8), IN),
    f"{LAYERS}attention/key/w": ((3, 32, 2, 8), IN),
    f"{LAYERS}attention/value/w": ((3, 32, 2, 8), IN),
    f"{LAYERS}attention/output/w": ((3, 4, 8, 32), OUT),
    f"{LAYERS}feedforward/gate/w": ((3, 32, 64), PLAIN),
    f"{LAYERS}feedforward/up/w": ((3, 32, 64), PLAIN),
    f"{LAYERS}feedforward/down/w": ((3, 64, 32), PLAIN),
    "decoder/last/feedforward/gate/w": ((32, 64), PLAIN),
}
STACKS = {(32, 32): 6, (16, 32): 6, (32, 64): 10}
"""Rows and columns, turned to be wide -> how many there are."""


@pytest.mark.parametrize(
    "sizes", [{"fsdp": 8}, {"fsdp": 4, "tensor": 2}, {"data": 4, "tensor": 2}], ids=str
)
def test_where_moments_are_split_each_matrix_meets_on_one_device(
    sizes: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The direction is one device's, sent once each way and computed once, but for empty places."""
    monkeypatch.setattr(muon, "FORMAT", jnp.float32)  # see test_sharding
    split = scale_by_muon(lambda path: MATRICES[path][1], momentum=0.9, steps=5)
    rng = np.random.default_rng(0)
    grads = {
        path: rng.normal(size=shape).astype(np.float32) for path, (shape, _) in MATRICES.items()
    }
    start = MuonState(jax.tree.map(np.zeros_like, grads))
    expected, _ = jax.jit(split.update)(grads, start)

    mesh = make_mesh(MeshConfig(**{"data": -1, **sizes}))
    lie = {
        path: NamedSharding(mesh, partition_spec(path, shape, mesh))
        for path, (shape, _) in MATRICES.items()
    }
    state = MuonState(lie)
    with jax.set_mesh(mesh):
        update = jax.jit(split.update, in_shardings=(lie, state), out_shardings=(lie, state))
        found, _ = update(grads, start)
        program = parse_program(update.lower(grads, start).compile().as_text())
    for path, value in expected.items():
        np.testing.assert_allclose(found[path], value, rtol=1e-4, atol=1e-5, err_msg=path)

    ways = sizes.get("fsdp", 1) * sizes.get("tensor", 1)
    own = {shape: -(-count // ways) for shape, count in STACKS.items()}
    rows = read_collectives(program, mesh)
    assert {row.kind for row in rows} == {"all-to-all"}
    whole = sum(4 * count * m * n for (m, n), count in own.items())
    assert sum(row.sent for row in rows) <= 2 * (ways - 1) / ways * whole
    flops = sum(5 * count * (4 * m * m * n + 2 * m**3) for (m, n), count in own.items())
    assert product_flops(program) <= flops
