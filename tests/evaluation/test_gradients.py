"""Gradient health as literal cases, and norms by layer against NumPy."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.evaluation import gradient_health, layer_norms

NAN, INF = math.nan, math.inf
CASES: dict[str, tuple[dict[str, float | list[float]], dict[str, tuple[str, ...]]]] = {
    "healthy": ({"a": 1.0, "b": [0.5, 2.0, 30.0]}, {}),
    "not a number": ({"a": 1.0, "b": [1.0, NAN]}, {"not_finite": ("b[1]",)}),
    "infinite": ({"a": INF, "b": [1.0, 1.0]}, {"not_finite": ("a",)}),
    "zero": ({"a": 1.0, "b": [0.0, 1.0]}, {"vanishing": ("b[0]",)}),
    "exploding": ({"a": 1001.0, "b": [1.0, 1.0, 1.0]}, {"exploding": ("a",)}),
    "large, not exploding": ({"a": 999.0, "b": [1.0, 1.0, 1.0]}, {}),
    "vanishing": ({"a": 0.9e-5, "b": [1.0, 1.0, 1.0]}, {"vanishing": ("a",)}),
    "small, not vanishing": ({"a": 1.1e-5, "b": [1.0, 1.0, 1.0]}, {}),
    "the same at another scale": (
        {"a": 1e-3, "b": [1e-7, 1e-7, 1e-7], "c": 1e-13},
        {"exploding": ("a",), "vanishing": ("c",)},
    ),
    "most of it dead": (
        {"a": [0.0, 0.0, 0.0], "b": 1.0, "c": 2.0},
        {"vanishing": ("a[0]", "a[1]", "a[2]")},
    ),
    "all of it dead": ({"a": [0.0, 0.0]}, {"vanishing": ("a[0]", "a[1]")}),
    "nothing finite": ({"a": NAN, "b": INF}, {"not_finite": ("a", "b")}),
    "everything at once": (
        {"a": [NAN, 1.0, 1.0, 1.0], "b": 1e4, "c": [0.0, 1e-9]},
        {"not_finite": ("a[0]",), "exploding": ("b",), "vanishing": ("c[0]", "c[1]")},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_trouble_is_named(case: str) -> None:
    norms, expected = CASES[case]
    health = gradient_health({path: np.asarray(norm, np.float32) for path, norm in norms.items()})
    found = {kind: getattr(health, kind) for kind in ("not_finite", "exploding", "vanishing")}
    assert found == {"not_finite": (), "exploding": (), "vanishing": ()} | expected
    assert health.healthy == (not expected)
    assert len(health.norms) == sum(np.size(norm) for norm in norms.values())


def test_the_summary_names_what_is_wrong() -> None:
    norms = {"a": [NAN, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0], "b": [0.0, 0.0, 0.0, 0.0], "c": 1e4}
    health = gradient_health({path: np.asarray(norm) for path, norm in norms.items()})
    assert health.summary() == (
        "gradients: 1 not finite (a[0]); 1 exploding (c); 4 vanishing (b[0], b[1], b[2], ...)"
    )
    assert gradient_health({"a": np.array(1.0)}).summary() == "gradients: healthy"


def test_stacked_layers_have_a_norm_each() -> None:
    rng = np.random.default_rng(0)
    table, stacked = rng.normal(size=(5, 4)), rng.normal(size=(3, 4, 2, 2))
    norms = layer_norms(
        {
            "decoder": {"embedding": jnp.asarray(table, jnp.float32)},
            "decoder/layers/block/attention/query": {"w": jnp.asarray(stacked, jnp.float32)},
        }
    )
    assert list(norms) == ["decoder/embedding", "decoder/layers/block/attention/query/w"]
    whole, each = norms.values()
    np.testing.assert_allclose(whole, np.linalg.norm(table), rtol=1e-6)
    np.testing.assert_allclose(each, np.linalg.norm(stacked.reshape(3, -1), axis=1), rtol=1e-6)
