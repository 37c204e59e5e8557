"""The TPU's kernels, interpreted on a processor, against the same attention in matrix products.

Interpreted kernels take seconds to compile, so that a case is several at once.
"""

from contextlib import AbstractContextManager
from functools import partial
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh

from rtdlm.config import MeshConfig
from rtdlm.modules.attention import Heads, Kind
from rtdlm.modules.attention.dot_product import attend
from rtdlm.modules.attention.kinds import DENSE, Dense, Sliding, with_alibi
from rtdlm.modules.attention.scoring import PLAIN, Scoring
from rtdlm.modules.attention.splash import admits, attend_splash, splash_serves, tile
from rtdlm.parallel import make_mesh
from rtdlm.parallel.slices import parse_slice, slice_devices
from tests.modules.attention.windows import draw, packed, window_mask

T = 384
"""Three tiles."""
CAPPED = Scoring(scale=0.9, soft_cap=1.5)


def documents() -> jax.Array:
    """A row of uneven documents that ends in padding, and one that is padding alone."""
    return jnp.concatenate([packed(1, T), jnp.zeros((1, T), jnp.int32)])


def inputs(heads: int = 4, kv_heads: int = 2, width: int = 8, dtype: Any = jnp.float32) -> Any:
    drawn = draw(length=T, heads=heads, kv_heads=kv_heads, width=width)
    return tuple(x.astype(dtype) for x in drawn)


def with_gradients(function: Any, *qkv: jax.Array) -> Any:
    @jax.jit
    def results(*qkv: jax.Array) -> Any:
        read, pullback = jax.vjp(function, *qkv)
        change = jnp.cos(jnp.arange(read.size, dtype=jnp.float32)).reshape(read.shape)
        return read, *pullback(change.astype(read.dtype))

    return [np.asarray(x, np.float32) for x in results(*qkv)]


@pytest.mark.parametrize(
    ("heads", "kv_heads", "width", "window", "scoring"),
    [
        (4, 2, 16, None, PLAIN),
        (3, 1, 8, 200, CAPPED),
    ],
)
def test_equals_masked_products_with_its_gradients(
    heads: int, kv_heads: int, width: int, window: int | None, scoring: Scoring
) -> None:
    qkv, segments = inputs(heads, kv_heads, width), documents()
    mask = window_mask(segments, window or T)
    read = partial(attend_splash, window=window, scoring=scoring)
    found = with_gradients(lambda *x: read(*x, segments), *qkv)
    expected = with_gradients(lambda *x: attend(*x, mask, scoring), *qkv)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_bfloat16_is_as_near_as_products_are() -> None:
    """As near to float32 as the same attention in products of bfloat16 is, within a half."""
    exact, segments = inputs(2, 1, 64), documents()
    rounded = inputs(2, 1, 64, jnp.bfloat16)
    mask = window_mask(segments, T)
    expected = with_gradients(lambda *x: attend(*x, mask), *exact)
    found = with_gradients(lambda *x: attend_splash(*x, segments), *rounded)
    products = with_gradients(lambda *x: attend(*x, mask), *rounded)
    for own, others, right in zip(found, products, expected, strict=True):
        size = np.abs(right).max()
        assert np.abs(own - right).max() / size < 0.02
        assert np.linalg.norm(own - right) < 1.5 * np.linalg.norm(others - right)


def test_a_later_token_leaves_the_past_bitwise_unchanged() -> None:
    qkv, segments = inputs(2, 1), jnp.ones((2, T), jnp.int32)
    read = jax.jit(lambda *x: attend_splash(*x, segments, window=150))
    before = read(*qkv)
    for t in (1, 128, 200):
        after = read(*(x.at[:, t].add(1.0) for x in qkv))
        assert (after[:, :t] == before[:, :t]).all()
        assert (after[:, t] != before[:, t]).any()
        assert (after[:, t + 150 :] == before[:, t + 150 :]).all()


@pytest.mark.parametrize(
    ("length", "window", "size"),
    [
        (128, None, 128),
        (1024, None, 512),
        (768, None, 256),
        (8192, 300, 256),
        (8192, 1, 128),
        (8192, 1024, 512),
    ],
)
def test_tiles_divide_the_row_and_stay_within_the_window(
    length: int, window: int | None, size: int
) -> None:
    assert tile(length, window) == size


@pytest.mark.parametrize(
    ("dtype", "length", "scoring", "admitted"),
    [
        (jnp.bfloat16, 256, PLAIN, True),
        (jnp.bfloat16, 128, CAPPED, True),
        (jnp.float32, 256, PLAIN, False),
        (jnp.float16, 256, PLAIN, False),
        (jnp.bfloat16, 200, PLAIN, False),
        (jnp.bfloat16, 256, Scoring(slopes_H=(0.5,)), False),
    ],
)
def test_what_is_admitted(dtype: Any, length: int, scoring: Scoring, admitted: bool) -> None:
    query = jnp.zeros((1, length, 1, 64), dtype)
    assert admits(query, scoring) == admitted
    assert not splash_serves(query, scoring)  # here is no TPU


def a_tpu() -> AbstractContextManager[Any]:
    """Traces as for a TPU, which need not be here."""
    device = AbstractDevice("TPU v5 lite", 1, "tpu")
    return jax.sharding.use_abstract_mesh(AbstractMesh((1,), ("data",), abstract_device=device))


def reads(kind: Kind, segments: jax.Array, *qkv: jax.Array) -> jax.Array:
    positions = jnp.zeros_like(segments)
    return kind.read(Heads(*qkv), kind.packed(positions, segments)).astype(jnp.float32)


@pytest.mark.parametrize(
    ("kind", "dtype", "kernels"),
    [
        (DENSE, jnp.bfloat16, True),
        (Dense(CAPPED), jnp.bfloat16, True),
        (Sliding(100), jnp.bfloat16, True),
        (Sliding(100, sinks=2), jnp.bfloat16, False),
        (with_alibi(DENSE, 4), jnp.bfloat16, False),
        (DENSE, jnp.float32, False),
    ],
    ids=str,
)
def test_attention_takes_them_on_a_tpu(kind: Kind, dtype: Any, kernels: bool) -> None:
    def loss(*qkv: jax.Array) -> jax.Array:
        return jnp.sum(reads(kind, jnp.ones((2, T), jnp.int32), *qkv))

    qkv = inputs(dtype=dtype)
    with a_tpu():
        traced = jax.jit(jax.grad(loss, (0, 1, 2))).trace(*qkv)
        text = traced.lower(lowering_platforms=("tpu",)).as_text()
    # Forward, gradient of queries, gradient of keys and values.
    assert text.count("@tpu_custom_call(") == (3 if kernels else 0)
    assert not kernels or f"{T}x{T}x" not in text, "nothing of all pairs"


@pytest.mark.skipif(find_spec("libtpu") is None, reason="no libtpu: pip install 'rtdlm[tpu]'")
@pytest.mark.parametrize(
    ("kind", "width"), [(DENSE, 64), (Dense(CAPPED), 80), (Sliding(200), 128)], ids=str
)
def test_compiles_for_tpus_on_heads_and_rows_of_their_own(kind: Kind, width: int) -> None:
    def loss(segments: jax.Array, *qkv: jax.Array) -> jax.Array:
        return jnp.sum(reads(kind, segments, *qkv))

    devices = slice_devices(parse_slice("v5e:2x2"))
    with jax.set_mesh(make_mesh(MeshConfig(data=2, tensor=2), devices)):
        segments = jax.ShapeDtypeStruct((2, T), jnp.int32)
        qkv = [jax.ShapeDtypeStruct((2, T, n, width), jnp.bfloat16) for n in (8, 4, 4)]
        compiled = jax.jit(jax.grad(loss, (1, 2, 3))).lower(segments, *qkv).compile()
    lines = compiled.as_text().splitlines()
    calls = [line for line in lines if 'custom_call_target="tpu_custom_call"' in line]
    assert len(calls) == 3
    # Each device has one row, and four of its eight heads.
    assert all(f"bf16[4,{T},{width}]" in call for call in calls)
