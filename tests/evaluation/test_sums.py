"""Sums over tokens, and the divisor that turns them into means."""

import jax.numpy as jnp
import numpy as np

from rtdlm.evaluation import divisor, token_sums
from rtdlm.modules.head import TokenStatistics


def test_sums_are_weighted_token_by_token() -> None:
    rng = np.random.default_rng(0)
    values = {name: rng.normal(size=(2, 5)).astype(np.float32) for name in TokenStatistics._fields}
    weights = rng.random((2, 5)).astype(np.float32)
    statistics = TokenStatistics(**{name: jnp.asarray(value) for name, value in values.items()})
    sums = token_sums(statistics, jnp.asarray(weights))
    for name in ("nll", "top1", "top5", "entropy"):
        expected = (values[name].astype(np.float64) * weights).sum()
        np.testing.assert_allclose(getattr(sums, name), expected, rtol=1e-5)
    np.testing.assert_allclose(sums.weight, weights.sum(dtype=np.float64), rtol=1e-6)


def test_a_divisor_is_the_weight_however_small_and_never_zero() -> None:
    weights = jnp.asarray([3.0, 1.0, 0.25, 0.0])
    assert divisor(weights).tolist() == [3.0, 1.0, 0.25, 1.0]
