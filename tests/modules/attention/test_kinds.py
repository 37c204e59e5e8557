from typing import get_args

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.config import AGIConfig, AttentionConfig
from rtdlm.config.agi import AttentionType
from rtdlm.modules.attention import KINDS, GroupedQueryAttention, Kind, Rows
from rtdlm.modules.attention.kinds import DENSE, Sliding
from rtdlm.modules.primitives import RMSNorm
from tests.modules.attention.windows import packed, window_mask

LENGTH, WINDOW = 150, 20


def layer(kind: Kind) -> hk.Transformed:
    def read(x_BTD: jax.Array, rows: Rows) -> jax.Array:
        attention = GroupedQueryAttention(
            num_heads=4,
            num_kv_heads=2,
            head_dim=4,
            head_norm=lambda name: RMSNorm(name=name),
            out_scale=1.0,
            kind=kind,
        )
        return attention(x_BTD, rows=rows, turn=None, cache=None).out_BTD

    return hk.without_apply_rng(hk.transform(read))


def test_every_attention_type_has_a_kind() -> None:
    assert set(KINDS) == set(get_args(AttentionType))
    assert KINDS["sliding"](AttentionConfig(window=7)) == Sliding(7)
    assert KINDS["sliding"](AGIConfig(attention_type="sliding").attention) == Sliding(256)


def test_a_layer_that_slides_equals_a_dense_one_under_its_mask() -> None:
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, LENGTH, 12)), jnp.float32)
    segments = packed(2, LENGTH)
    positions = jnp.broadcast_to(jnp.arange(LENGTH)[None], (2, LENGTH))
    masked = Rows(positions, window_mask(segments, WINDOW))
    rows = Sliding(WINDOW).packed(positions, segments)
    assert rows.mask_BTS is None
    params = jax.jit(layer(DENSE).init)(jax.random.key(0), x, masked)
    expected = jax.jit(layer(DENSE).apply)(params, x, masked)
    found = jax.jit(layer(Sliding(WINDOW)).apply)(params, x, rows)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("window", "length", "keys"),
    [
        # 127 keys before a block, rounded up to 128, and the block's own 128.
        (128, 2048, 256),
        (128, 1024, 256),
        (1, 1024, 128),
        (256, 256, 256 + 128),
        (256, 100, 112 + 112),
        (20, 192, (32 + 128) * 256 // 192),
    ],
)
def test_keys_computed(window: int, length: int, keys: int) -> None:
    if length == 100:
        keys = keys * 112 // 100
    assert Sliding(window).keys_computed(length, head_dim=4) == keys
    assert DENSE.keys_computed(length, head_dim=4) == length
