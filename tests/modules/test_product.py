"""Products and their gradients against float64 NumPy, and what reaches the hardware."""

import re
from collections.abc import Callable
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.modules.primitives import Projection, product, project_all
from rtdlm.modules.primitives.projection import MIN_SHARED_ROWS, contract

# Half of the distance from one to the next number, all that one rounding costs.
ROUNDING = {"float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11}
SHAPES = [
    ((), 1, 5, 3),
    ((), 5, 3, 7),
    ((), 20, 9, 4),
    ((), 17, 4, 9),
    ((2, 3), 18, 7, 4),
    ((3,), 2, 4, 6),
]


def random(rng: np.random.Generator, *shape: int, dtype: Any = jnp.float32) -> jax.Array:
    return jax.device_put(rng.normal(size=shape).astype(dtype))


def exact(array: jax.Array) -> np.ndarray:
    return np.asarray(array, np.float64)


def gradients(
    function: Callable[..., jax.Array], x: jax.Array, w: jax.Array, dy: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    y, back = jax.vjp(function, x, w)
    return y, *back(dy)


def assert_rounded(actual: jax.Array, expected: np.ndarray, sizes: np.ndarray) -> None:
    """`expected` rounded once to the format of `actual`, after float32 sums of `sizes`."""
    error = np.abs(exact(actual) - expected)
    allowed = ROUNDING[actual.dtype.name] * np.abs(expected) + 1e-6 * sizes
    assert (error <= allowed).all(), (error - allowed).max()


def assert_products(x: jax.Array, w: jax.Array, dy: jax.Array, made: tuple[jax.Array, ...]) -> None:
    """`made` is y = x w, dx = dy w^T and dw = x^T dy, each with its operand's format."""
    y, dx, dw = made
    assert (y.dtype, dx.dtype, dw.dtype) == (x.dtype, x.dtype, w.dtype)
    x_f64, w_f64, dy_f64 = exact(x), exact(w.astype(x.dtype)), exact(dy)

    def turn(array: np.ndarray) -> np.ndarray:
        return np.swapaxes(array, -1, -2)

    for got, a, b in (
        (y, x_f64, w_f64),
        (dx, dy_f64, turn(w_f64)),
        (dw, turn(x_f64), dy_f64),
    ):
        assert_rounded(got, a @ b, np.abs(a) @ np.abs(b))


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize(("lead", "rows", "summed", "made"), SHAPES, ids=str)
def test_values_and_gradients_are_rounded_once(
    lead: tuple[int, ...], rows: int, summed: int, made: int, dtype: str
) -> None:
    """Sums are float32 whatever the operands' format, and weights may be wider than those."""
    rng = np.random.default_rng(0)
    x, dy = (random(rng, *lead, rows, n, dtype=dtype) for n in (summed, made))
    for weight_dtype in {dtype, "float32"}:
        w = random(rng, *lead, summed, made, dtype=weight_dtype)
        assert_products(x, w, dy, jax.jit(lambda *a: gradients(product, *a))(x, w, dy))


def in_a_loop(x: jax.Array, w: jax.Array, dy: jax.Array) -> tuple[jax.Array, ...]:
    """A scan of one round, which XLA takes apart, around a recomputed product."""

    def function(x: jax.Array, w: jax.Array) -> jax.Array:
        body = jax.checkpoint(lambda carry, w: (carry, product(carry, w)))
        return jax.lax.scan(body, x, w[None])[1][0]

    return gradients(function, x, w, dy)


def within_haiku(x: jax.Array, w: jax.Array, dy: jax.Array) -> tuple[jax.Array, ...]:
    """A product that `hk.remat` makes again for the gradient."""
    function = hk.without_apply_rng(hk.transform(lambda x, w: hk.remat(product)(x, w)))
    return gradients(lambda x, w: function.apply({}, x, w), x, w, dy)


def of_a_batch(x: jax.Array, w: jax.Array, dy: jax.Array) -> tuple[jax.Array, ...]:
    """`jax.vmap` over rows for one weight, and over weights for one `x`."""

    def one(*arrays: Any) -> Any:
        return gradients(product, *arrays)

    rows = jax.vmap(one, (0, None, 0))(jnp.stack([x, x]), w, jnp.stack([dy, dy]))
    weights = jax.vmap(one, (None, 0, None))(x, jnp.stack([w, w]), dy)
    both = jax.vmap(one)(jnp.stack([x, x]), jnp.stack([w, w]), jnp.stack([dy, dy]))
    return jax.tree.map(lambda *ways: jnp.stack(ways), rows, weights, both)


@pytest.mark.parametrize(
    ("rows", "summed", "made"),
    [(1, 1, 1), (1, 7, 65), (3, 7, 3), (3, 130, 7), (16, 7, 3), (65, 1, 130), (130, 65, 3)],
)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_products_of_any_size_run_wherever_they_stand(
    rows: int, summed: int, made: int, dtype: str
) -> None:
    """XLA for CPUs declines some sizes at run time, and on some layouts aborts the process."""
    rng = np.random.default_rng(1)
    x, dy = (random(rng, rows, n, dtype=dtype) for n in (summed, made))
    w = random(rng, summed, made)
    for place in (in_a_loop, within_haiku):
        assert_products(x, w, dy, jax.jit(place)(x, w, dy))
    batches = jax.jit(of_a_batch)(x, w, dy)
    for way in range(3):
        for i in range(2):
            assert_products(x, w, dy, tuple(made[way, i] for made in batches))


def products_of(text: str) -> list[tuple[str, ...]]:
    """Formats of result and operands of every product in compiled HLO."""
    formats = dict(re.findall(r"(%[\w.\-]+) = (\w+)\[", text))
    formats |= {f"%{name}": kind for name, kind in re.findall(r"[(,] ?([\w.\-]+): (\w+)\[", text)}
    found = re.findall(r"(%[\w.\-]+) = \w+\[[^=]*? dot\((%[\w.\-]+), (%[\w.\-]+)\)", text)
    return [tuple(formats[name] for name in names) for names in found]


@pytest.mark.parametrize(("summed", "made"), [(64, 160), (160, 64)])
def test_no_product_of_bfloat16_has_wider_operands(summed: int, made: int) -> None:
    """Only then do CPUs use their units for it; sums stay float32."""
    x, dy = jnp.ones((96, summed), jnp.bfloat16), jnp.ones((96, made), jnp.bfloat16)
    w = jnp.ones((summed, made))
    lowered = jax.jit(lambda *a: gradients(product, *a)).lower(x, w, dy)
    assert products_of(lowered.compile().as_text()) == [("f32", "bf16", "bf16")] * 3
    wide = jax.jit(lambda x, w, dy: gradients(jnp.matmul, x, w, dy))
    text = wide.lower(x.astype(jnp.float32), w, dy.astype(jnp.float32)).compile().as_text()
    assert set(products_of(text)) == {("f32", "f32", "f32")}, "the text is read as it should"


@pytest.mark.parametrize(
    "equation",
    ["BTD,DF->BTF", "BTD,DHE->BTHE", "BTHE,HED->BTD", "BECD,EDF->BECF", "BTNE,NED->BTD"],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_contracting_has_the_gradients_of_einsum(equation: str, dtype: str) -> None:
    sizes = {"B": 2, "T": 9, "D": 4, "F": 5, "H": 3, "E": 6, "C": 9, "N": 2}
    (inputs, weight), result = equation.split("->")[0].split(","), equation.split("->")[1]
    rng = np.random.default_rng(2)
    x, dy = (random(rng, *(sizes[a] for a in axes), dtype=dtype) for axes in (inputs, result))
    w = random(rng, *(sizes[a] for a in weight))
    made = jax.jit(lambda *a: gradients(lambda x, w: contract(equation, x, w), *a))(x, w, dy)
    x_f64, w_f64, dy_f64 = exact(x), exact(w.astype(dtype)), exact(dy)
    for got, sides, a, b in (
        (made[0], equation, x_f64, w_f64),
        (made[1], f"{result},{weight}->{inputs}", dy_f64, w_f64),
        (made[2], f"{inputs},{result}->{weight}", x_f64, dy_f64),
    ):
        assert_rounded(got, np.einsum(sides, a, b), np.einsum(sides, np.abs(a), np.abs(b)))


@pytest.mark.parametrize("rows", [MIN_SHARED_ROWS - 1, MIN_SHARED_ROWS])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_projections_together_are_those_apart(rows: int, dtype: str) -> None:
    """Queries, keys and values of different widths, below and above the copying of weights."""

    def made(x: jax.Array, together: bool) -> list[jax.Array]:
        shapes = {"query": (6, 4, 3), "key": (6, 2, 3), "value": (6, 2, 3), "gate": (6, 5)}
        layers = [
            Projection("BTD,DHE->BTHE" if len(s) == 3 else "BTD,DF->BTF", shape=s, name=n)
            for n, s in shapes.items()
        ]
        return project_all(x, layers) if together else [layer(x) for layer in layers]

    functions = hk.without_apply_rng(hk.transform(made))
    rng = np.random.default_rng(3)
    x = random(rng, 1, rows, 6, dtype=dtype)
    params = functions.init(jax.random.key(0), x, False)
    shapes = jax.tree.map(jnp.shape, params)
    assert jax.tree.map(jnp.shape, functions.init(jax.random.key(0), x, True)) == shapes
    results = []
    for together in (True, False):
        y, back = jax.vjp(lambda p, x, t=together: functions.apply(p, x, t), params, x)
        dy = [random(np.random.default_rng(4), *part.shape, dtype=dtype) for part in y]
        results.append((y, *back(dy)))
    (y, dw, dx), (y_apart, dw_apart, dx_apart) = results
    leaves = [jax.tree.leaves(tree) for tree in ((y, dw), (y_apart, dw_apart))]
    for got, expected in zip(*leaves, strict=True):
        assert got.dtype == expected.dtype
        # The same products, summed in another order.
        np.testing.assert_allclose(
            got.astype(jnp.float32), expected.astype(jnp.float32),
            rtol=2 * ROUNDING[got.dtype.name] + 1e-6, atol=2e-6,
        )  # fmt: skip
    # Apart, the input's gradient is rounded once for each of the four.
    np.testing.assert_allclose(exact(dx), exact(dx_apart), atol=40 * ROUNDING[dtype])
