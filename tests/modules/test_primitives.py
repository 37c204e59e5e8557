"""Norms, projections, dropout and the dense feed-forward layer against NumPy."""

from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.modules.feedforward import FEEDFORWARDS, Gated
from rtdlm.modules.primitives import (
    GELU,
    SILU,
    Gate,
    LayerNorm,
    Mix,
    Past,
    Projection,
    RMSNorm,
    ShortConv,
    dropout,
    gated,
    look_back,
    packed_past,
)
from rtdlm.modules.primitives.normalise import normalise
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
    layer = hk.without_apply_rng(hk.transform(lambda x: Gated(d_ff=7, out_scale=1.0)(x)))
    x = random(2, 3, 4)
    shapes = {"gate": (4, 7), "up": (4, 7), "down": (7, 4)}
    weights = {name: random(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}
    params = {f"feedforward/{name}": {"w": w} for name, w in weights.items()}
    exact = {name: np.asarray(w, np.float64) for name, w in weights.items()}
    expected = reference.swiglu(np.asarray(x, np.float64), **exact)
    np.testing.assert_allclose(layer.apply(params, x), expected, rtol=1e-5, atol=1e-5)


def silu(a: jax.Array) -> jax.Array:
    return a / (1 + jnp.exp(-a))


def tanh_gelu(a: jax.Array) -> jax.Array:
    return a * jax.nn.sigmoid(2 * (2 / jnp.pi) ** 0.5 * (a + 0.044715 * a**3))


@pytest.mark.parametrize(("function", "plainly"), [(SILU, silu), (GELU, tanh_gelu)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_the_gate_and_its_gradient_are_rounded_once(
    dtype: Any, function: Gate, plainly: Any
) -> None:
    """Against autodiff of the plain formula in float32, at large arguments too."""
    arrays = [random(40, 30, seed=seed, dtype=dtype) * 4 for seed in range(3)]
    gate, up, dy = (array.astype(jnp.float32) for array in arrays)
    plain, plain_back = jax.vjp(lambda gate, up: plainly(gate) * up, gate, up)
    y, back = jax.vjp(jax.jit(lambda gate, up: gated(function, gate, up)), *arrays[:2])
    half = float(jnp.finfo(dtype).eps) / 2
    for got, expected in zip((y, *back(arrays[2])), (plain, *plain_back(dy)), strict=True):
        assert got.dtype == dtype
        np.testing.assert_allclose(got.astype(jnp.float32), expected, rtol=half + 2e-6, atol=2e-6)


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


def test_layer_norm_subtracts_the_mean_and_divides_by_the_spread() -> None:
    norm = hk.without_apply_rng(hk.transform(lambda x: LayerNorm()(x)))
    x = np.random.default_rng(0).normal(3.0, 2.0, size=(2, 5, 8)).astype(np.float32)
    scale = np.linspace(0.5, 2.0, 8, dtype=np.float32)
    for dtype, rtol in ((jnp.float32, 1e-5), (jnp.bfloat16, 2**-8)):
        given = jnp.asarray(x, dtype)
        y = norm.apply({"norm": {"scale": jnp.asarray(scale)}}, given)
        assert y.dtype == dtype
        expected = reference.layer_norm(np.asarray(given, np.float64), scale)
        np.testing.assert_allclose(y.astype(jnp.float32), expected, rtol=rtol, atol=1e-6)


@pytest.mark.parametrize("centre", [False, True])
def test_a_norms_gradient_is_that_of_its_slopes(centre: bool) -> None:
    """By the matrix of derivatives of each token, in float64."""
    rng = np.random.default_rng(6)
    x, dy = rng.normal(0.5, 2.0, size=(2, 3, 5))
    scale, bias = rng.normal(size=(2, 5))
    epsilon = 0.1

    def value(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        y = normalise(x, scale, bias if centre else None, epsilon, centre)
        return jnp.sum(y * jnp.asarray(dy, jnp.float32))

    given = (jnp.asarray(a, jnp.float32) for a in (x, scale, bias))
    dx, dscale, dbias = jax.grad(value, argnums=(0, 1, 2))(*given)
    for token in range(3):
        c = x[token] - (x[token].mean() if centre else 0.0)
        spread = np.sqrt((c**2).mean() + epsilon)
        slopes = np.eye(5) / spread - np.outer(c, c) / (5 * spread**3)
        if centre:
            slopes = slopes @ (np.eye(5) - 1 / 5)
        np.testing.assert_allclose(dx[token], (scale * dy[token]) @ slopes, atol=1e-5)
        x[token] = c / spread
    np.testing.assert_allclose(dscale, (dy * x).sum(0), atol=1e-5)
    np.testing.assert_allclose(dbias, dy.sum(0) if centre else np.zeros(5), atol=1e-5)


def test_norms_and_convolutions_keep_only_their_input_for_the_gradient() -> None:
    """Of arrays of its size; automatic differentiation keeps sixteen, thirteen in float32."""
    past = packed_past(jnp.ones((2, 9), jnp.int32), reach=3)

    def both(x: jax.Array) -> jax.Array:
        y = LayerNorm(bias=True, name="one")(RMSNorm(name="other")(x))
        return ShortConv(width=4, name="conv")(y, past=past, state=None)[0]

    layer = hk.without_apply_rng(hk.transform(both))
    x = jax.ShapeDtypeStruct((2, 9, 8), jnp.bfloat16)
    params = jax.eval_shape(layer.init, jax.random.key(0), x)
    kept = jax.eval_shape(lambda params, x: jax.vjp(layer.apply, params, x)[1], params, x)
    large = [leaf.dtype for leaf in jax.tree.leaves(kept) if leaf.size >= 2 * 9 * 8]
    assert large == [jnp.bfloat16] * 3  # what each of the three was given


def test_a_mix_is_a_weighted_sum_and_starts_as_told() -> None:
    mix = hk.without_apply_rng(hk.transform(lambda *x: Mix(initial=(0.5, -2.0), name="mix")(*x)))
    one, other = jnp.array([1.0, 2.0]), jnp.array([10.0, 20.0])
    params = mix.init(jax.random.key(0), one, other)
    assert params["mix"]["weights"].tolist() == [0.5, -2.0]
    changed = {"mix": {"weights": jnp.array([3.0, 4.0])}}
    assert mix.apply(changed, one, other).tolist() == [43.0, 86.0]


def test_looking_back_stays_within_the_document() -> None:
    segments = jnp.array([[1, 1, 1, 2, 2, 0, 0]])
    tokens = jnp.array([[11, 12, 13, 21, 22, 31, 32]])
    seen, state = look_back(tokens, packed_past(segments, reach=3), reach=2, state=None)
    assert state is None
    assert [x[0].tolist() for x in seen] == [
        [11, 12, 13, 21, 22, 31, 32],
        [0, 11, 12, 0, 21, 0, 31],
        [0, 0, 11, 0, 0, 0, 0],
    ]


def test_looking_back_at_a_state_that_moves_by_what_counts() -> None:
    state = jnp.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    tokens = jnp.array([[10, 11], [20, 21], [30, 31]])
    seen, state = look_back(tokens, Past(None, jnp.array([2, 0, 1])), reach=3, state=state)
    assert [x.tolist() for x in seen] == [
        [[10, 11], [20, 21], [30, 31]],
        [[3, 10], [6, 20], [9, 30]],
        [[2, 3], [5, 6], [8, 9]],
        [[1, 2], [4, 5], [7, 8]],
    ]
    assert state.tolist() == [[3, 10, 11], [4, 5, 6], [8, 9, 30]]


def test_a_short_convolution_is_a_loop_over_tokens_and_starts_as_the_identity() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(2, 9, 2, 3)).astype(np.float32)
    segments = np.array([[1, 1, 1, 1, 2, 2, 0, 0, 0], [1] * 9])
    past = packed_past(jnp.asarray(segments), reach=3)
    conv = hk.without_apply_rng(
        hk.transform(lambda x: ShortConv(width=4, name="conv")(x, past=past, state=None)[0])
    )
    params = conv.init(jax.random.key(0), x)
    np.testing.assert_array_equal(conv.apply(params, jnp.asarray(x)), x)
    kernel = rng.normal(size=(4, 2, 3)).astype(np.float32)
    y = conv.apply({"conv": {"kernel": jnp.asarray(kernel)}}, jnp.asarray(x))
    for row in range(2):
        expected = reference.short_conv(x[row].astype(np.float64), kernel, segments[row])
        np.testing.assert_allclose(y[row], expected, atol=1e-5)


@pytest.mark.parametrize("length", [2, 7])
@pytest.mark.parametrize("form", ["whole rows", "going on", "going on, one document"])
def test_a_short_convolutions_gradient_is_a_loop_over_tokens(form: str, length: int) -> None:
    """Of rows longer and shorter than its reach, with masks wider than that."""
    rng = np.random.default_rng(4)
    reach, goes_on = 3, form != "whole rows"
    x, dy = rng.normal(size=(2, 2, length, 2)).astype(np.float32)
    before = rng.normal(size=(2, reach, 2)).astype(np.float32)
    kernel = rng.normal(size=(reach + 1, 2)).astype(np.float32)
    segments = np.array([[1, 1, 1, 1, 2, 2, 2, 0, 0, 0], [1, 1, 2, 2, 2, 2, 2, 2, 2, 3]])
    segments = segments[:, : reach + length]
    past = packed_past(jnp.asarray(segments[:, reach:]), reach=reach + 2)
    if goes_on:
        same = packed_past(jnp.asarray(segments), reach=reach + 2).same_BTJ
        assert same is not None
        past = Past(same[:, reach:], jnp.full(2, length))
    if form == "going on, one document":
        segments, past = np.ones_like(segments), past._replace(same_BTJ=None)
    conv = hk.without_apply_rng(
        hk.transform(lambda x, state: ShortConv(width=4, name="conv")(x, past=past, state=state)[0])
    )

    def value(kernel: jax.Array, x: jax.Array, before: jax.Array) -> jax.Array:
        y = conv.apply({"conv": {"kernel": kernel}}, x, before if goes_on else None)
        return jnp.sum(y.astype(jnp.float32) * jnp.asarray(dy))

    row = np.concatenate([before, x], axis=1).astype(np.float64)
    drow, wanted = np.zeros_like(row), np.zeros(kernel.shape)
    for b, t, back in np.ndindex(2, length, reach + 1):
        place = t + reach - back
        if (place < reach and not goes_on) or segments[b, place] != segments[b, t + reach]:
            continue
        wanted[back] += dy[b, t] * row[b, place]
        drow[b, place] += dy[b, t] * (kernel[back] + (back == 0))
    for dtype, error in ((jnp.float32, 1e-5), (jnp.bfloat16, 0.1)):
        given = kernel, jnp.asarray(x, dtype), jnp.asarray(before)
        dkernel, dx, dbefore = jax.grad(value, argnums=(0, 1, 2))(*given)
        assert (dkernel.dtype, dx.dtype, dbefore.dtype) == (jnp.float32, dtype, jnp.float32)
        np.testing.assert_allclose(dkernel, wanted, atol=error)
        np.testing.assert_allclose(dx.astype(jnp.float32), drow[:, reach:], atol=error)
        np.testing.assert_allclose(dbefore, drow[:, :reach] * goes_on, atol=error)


@pytest.mark.parametrize("kind", ["relu2", "gelu"])
def test_two_matrices_and_what_is_between_them(kind: str) -> None:
    layer = hk.without_apply_rng(
        hk.transform(lambda x: FEEDFORWARDS[kind](d_ff=7, out_scale=1.0)(x))
    )
    rng = np.random.default_rng(3)
    x, up, down = (rng.normal(size=s).astype(np.float32) for s in ((2, 3, 5), (5, 7), (7, 5)))
    params = {
        "feedforward/up": {"w": jnp.asarray(up)},
        "feedforward/down": {"w": jnp.asarray(down)},
    }
    actual = layer.apply(params, jnp.asarray(x))
    exact = (a.astype(np.float64) for a in (x, up, down))
    np.testing.assert_allclose(actual, reference.FEEDFORWARDS[kind](*exact), rtol=2e-5, atol=2e-5)
