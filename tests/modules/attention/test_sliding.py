from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.modules.attention.alibi import Places
from rtdlm.modules.attention.dot_product import attend
from rtdlm.modules.attention.scoring import PLAIN, Scoring
from rtdlm.modules.attention.sliding import attend_window
from tests.modules.attention.windows import draw, packed, window_mask


def close(found, expected, tolerance=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance), found, expected)


CAPPED = Scoring(scale=0.9, soft_cap=1.5)
LOWERED = CAPPED._replace(slopes_H=(0.5, 0.01, 0.1, 0.0))
SHAPES = [
    (37, 8, 16),
    (64, 16, 16),
    (37, 1, 16),
    (50, 33, 16),
    (5, 8, 128),
    (40, 100, 16),
    (48, 17, 32),
]
CASES = [(*shape, 0, scoring) for shape in SHAPES for scoring in (PLAIN, CAPPED)]
CASES += [
    (37, 8, 16, 0, LOWERED),
    (70, 5, 16, 3, LOWERED),
    (70, 17, 16, 1, PLAIN),
    (60, 2, 16, 20, PLAIN),
    (20, 30, 16, 4, PLAIN),
]


def long_documents(length):
    """One document, and three of which the last is padding: sinks far before the window."""
    rows = [[1] * length, [1] * 9 + [2] * (length - 14) + [0] * 5]
    return jnp.asarray(rows, jnp.int32)


@pytest.mark.parametrize(("length", "window", "block", "sinks", "scoring"), CASES, ids=str)
def test_equals_masked_dense_with_its_gradients(length, window, block, sinks, scoring):
    query, key, value = draw(length=length)
    segments = long_documents(length) if sinks else packed(2, length)
    places = Places(*[jnp.arange(length)[None]] * 2)
    change = jnp.cos(jnp.arange(query.size, dtype=jnp.float32)).reshape(query.shape)

    def results(function):
        @jax.jit  # of arguments: constants would be folded, by an interpreter
        def both(*given):
            read, pullback = jax.vjp(function, *given)
            return read, pullback(change)

        return both(query, key, value)

    mask = window_mask(segments, window, sinks)
    expected = results(lambda q, k, v: attend(q, k, v, mask, scoring, places))
    found = results(
        lambda q, k, v: attend_window(
            q, k, v, segments, window=window, block=block, sinks=sinks, scoring=scoring
        )
    )
    close(found, expected)


def test_a_later_token_leaves_the_past_bitwise_unchanged():
    query, key, value = draw(length=50)
    segments = jnp.ones((2, 50), jnp.int32)
    read = jax.jit(lambda *x: attend_window(*x, segments, window=20, block=16, sinks=2))
    before = read(query, key, value)
    for t in (15, 16, 33):
        changed = read(*(x.at[:, t].add(1.0) for x in (query, key, value)))
        assert (changed[:, :t] == before[:, :t]).all()
        assert (changed[:, t] != before[:, t]).any()
        assert (changed[:, t + 20 :] == before[:, t + 20 :]).all()


def test_packed_documents_read_as_if_alone():
    query, key, value = draw(batch=1, length=60)
    segments = jnp.asarray([[1] * 13 + [2] * 47], jnp.int32)
    read = jax.jit(partial(attend_window, window=9, block=16, sinks=2))
    together = read(query, key, value, segments)
    for part in (slice(0, 13), slice(13, 60)):
        pieces = (x[:, part] for x in (query, key, value))
        alone = read(*pieces, segments[:, part])
        close(together[:, part], alone, 1e-6)


def test_bfloat16_multiplies_in_bfloat16_and_is_near():
    exact = draw(length=64)
    segments = jnp.ones((2, 64), jnp.int32)

    def results(q, k, v):
        read, pullback = jax.vjp(
            lambda *x: attend_window(*x, segments, window=20, block=32), q, k, v
        )
        return read, pullback(jnp.ones_like(read))

    rounded = tuple(x.astype(jnp.bfloat16) for x in exact)
    text = jax.jit(results).lower(*rounded).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert len(products) == 7
    for line in products:
        operands, _, result = line.rpartition("->")
        assert operands.count("xbf16>") == 2 and "xf32>" in result, line
    found = jax.tree.map(lambda x: x.astype(jnp.float32), jax.jit(results)(*rounded))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(jax.jit(results)(*exact)), strict=True):
        assert float(jnp.max(jnp.abs(a - b))) < 0.03 * float(jnp.max(jnp.abs(b)))


def test_memory_grows_as_the_row_does():
    def peak(length):
        query, key, value = draw(batch=1, length=length, width=16)
        segments = jnp.ones((1, length), jnp.int32)

        def loss(q, k, v):
            return jnp.sum(attend_window(q, k, v, segments, window=32, block=32))

        compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(query, key, value).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert peak(1024) < 2.2 * peak(512)
