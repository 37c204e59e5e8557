"""`narrow` against the plain conversion and, at ties, against a table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.modules.primitives import narrow

TIES = np.array([0x3F808000, 0x3F818000, 0xBF808000, 0x3F807FFF, 0x3F808001], np.uint32)
AWAY = np.array([0x3F81, 0x3F82, 0xBF81, 0x3F80, 0x3F81], np.uint16)


def test_rounds_to_the_nearest_and_ties_away_from_zero() -> None:
    x = np.random.default_rng(0).normal(size=4096).astype(np.float32)
    x = np.concatenate([x, np.float32([0.0, -0.0, 1e-30, 3.39e38, 3.4e38, np.inf, -np.inf])])
    to_bfloat16 = jax.jit(lambda x: narrow(x, jnp.bfloat16))
    plain = jnp.asarray(x).astype(jnp.bfloat16)
    found = to_bfloat16(x)
    assert np.asarray(found).tobytes() == np.asarray(plain).tobytes()
    assert bool(jnp.isnan(to_bfloat16(np.float32([np.nan, -np.nan]))).all())
    if jax.default_backend() == "cpu":
        assert np.asarray(to_bfloat16(TIES.view(np.float32))).view(np.uint16).tolist() == list(AWAY)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16])
def test_other_formats_convert_plainly(dtype: jnp.dtype) -> None:
    x = jnp.asarray(np.random.default_rng(1).normal(size=64), jnp.float32)
    np.testing.assert_array_equal(narrow(x, dtype), x.astype(dtype))
