"""Norms, projections, dropout and the dense feed-forward layer against NumPy."""

from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.modules.feedforward import SwiGLU
from rtdlm.modules.primitives import Projection, RMSNorm, dropout
from rtdlm.modules.primitives.projection import contract
from tests.modules import reference


def random(*shape: int, seed: int = 0, dtype: Any = jnp.float32) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 4, 5)], ids=str)
def test_rms_norm_equals_numpy(shape: tuple[int, ...]) -> None:
    norm = hk.without_apply_rng(hk.transform(lambda x: RMSNorm()(x)))
    x, scale = random(*shape), random(5, seed=1)
    assert norm.init(jax.random.key(0), x)["norm"]["scale"].tolist() == [1] * 5
    expected = reference.rms_norm(np.asarray(x, np.float64), np.asarray(scale, np.float64))
    np.testing.assert_allclose(norm.apply({"norm": {"scale": scale}}, x), expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_rms_norm_computes_in_float32_and_keeps_the_inputs_format(dtype: Any) -> None:
    """300^2 overflows float16, and 256 + 1 is 256 in bfloat16."""
    norm = hk.without_apply_rng(hk.transform(lambda x: RMSNorm()(x)))
    x = jnp.full((1, 512), 300, dtype)
    y = norm.apply({"norm": {"scale": jnp.ones(512)}}, x)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y.astype(jnp.float32), np.ones((1, 512)))


@pytest.mark.parametrize(
    "equation",
    ["BTD,DF->BTF", "BTD,DHE->BTHE", "BTHE,HED->BTD", "BECD,EDF->BECF", "TD,DF->TF", "BTD,D->BT"],
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_merging_axes_does_not_change_a_product(equation: str, dtype: Any) -> None:
    sizes = {"B": 2, "T": 3, "D": 4, "F": 5, "H": 3, "E": 6, "C": 2}
    inputs, weight = equation.split("->")[0].split(",")
    x = random(*(sizes[a] for a in inputs), dtype=dtype)
    w = random(*(sizes[a] for a in weight), seed=1, dtype=dtype)
    y = contract(equation, x, w)
    assert y.dtype == dtype
    exact = np.einsum(equation, np.asarray(x, np.float64), np.asarray(w, np.float64))
    np.testing.assert_allclose(
        y.astype(jnp.float32),
        exact,
        rtol=1e-2 if dtype == jnp.bfloat16 else 1e-5,
        atol=0.05 if dtype == jnp.bfloat16 else 1e-5,
    )


def test_a_projection_starts_with_unit_gain_times_its_scale() -> None:
    """Fan in counts every summed axis: H x E for an attention output, D alone for experts."""
    cases = {
        "BTD,DHE->BTHE": ((64, 8, 16), 64),
        "BTHE,HED->BTD": ((8, 16, 64), 128),
        "BECD,EDF->BECF": ((4, 64, 32), 64),
    }
    sizes = {"B": 1, "T": 1, "C": 1, "D": 64, "H": 8, "E": 16, "F": 32}
    for equation, (shape, fan_in) in cases.items():
        axes = dict(zip(equation.split("->")[0].split(",")[1], shape, strict=True))
        x = jnp.zeros([(sizes | axes)[a] for a in equation.split(",")[0]])
        projection = hk.transform(
            lambda x, equation=equation, shape=shape: Projection(
                equation, shape=shape, scale=0.5, name="p"
            )(x)
        )
        w = np.asarray(jax.jit(projection.init)(jax.random.key(1), x)["p"]["w"])
        assert w.shape == shape
        assert w.std() == pytest.approx(0.5 * fan_in**-0.5, rel=0.04), equation


def test_swiglu_equals_numpy() -> None:
    layer = hk.without_apply_rng(hk.transform(lambda x: SwiGLU(d_ff=7, out_scale=1.0)(x)))
    x = random(2, 3, 4)
    shapes = {"gate": (4, 7), "up": (4, 7), "down": (7, 4)}
    weights = {name: random(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}
    params = {f"feedforward/{name}": {"w": w} for name, w in weights.items()}
    exact = {name: np.asarray(w, np.float64) for name, w in weights.items()}
    expected = reference.swiglu(np.asarray(x, np.float64), **exact)
    np.testing.assert_allclose(layer.apply(params, x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_dropout_zeroes_its_share_and_keeps_the_mean(dtype: Any) -> None:
    drop = hk.transform(lambda x: dropout(x, rate=0.25))
    x = jnp.full((100, 100), 3, dtype)
    y = drop.apply({}, jax.random.key(0), x)
    assert y.dtype == dtype
    values, counts = np.unique(np.asarray(y.astype(jnp.float32)), return_counts=True)
    assert values.tolist() == [0.0, 4.0]
    assert counts[0] / x.size == pytest.approx(0.25, abs=0.02)
    assert drop.apply({}, None, x) is x, "no key, no dropout"
    off = hk.transform(lambda x: dropout(x, rate=0.0))
    assert off.apply({}, jax.random.key(0), x) is x, "no rate, no dropout"
