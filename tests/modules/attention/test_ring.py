from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.modules.attention.alibi import Places
from rtdlm.modules.attention.dot_product import attend
from rtdlm.modules.attention.ring import RingCache, attend_ring
from rtdlm.modules.attention.scoring import PLAIN, Scoring
from tests.modules.attention.windows import draw, window_mask


def test_slots_are_taken_in_turn():
    cache = RingCache.empty(2, 3, 1, 1)
    tokens = jnp.arange(5, dtype=jnp.float32).reshape(1, 5, 1, 1) + 10
    both = jnp.concatenate([tokens, -tokens])
    positions = jnp.tile(jnp.arange(5)[None], (2, 1))
    cache = cache.write(both, both, positions, jnp.asarray([5, 2]))
    assert cache.kv.value_BSKE[:, :, 0, 0].tolist() == [[13, 14, 12], [-10, -11, 0]]
    assert cache.holds_BS.tolist() == [[4, 5, 3], [1, 2, 0]]
    one = jnp.full((2, 1, 1, 1), 7.0)
    cache = cache.write(one, one, jnp.asarray([[5], [2]]), jnp.asarray([1, 0]))
    assert cache.kv.value_BSKE[:, :, 0, 0].tolist() == [[13, 14, 7], [-10, -11, 0]]
    assert cache.mask(jnp.asarray([[5], [1]])).tolist() == [[[True] * 3], [[True, True, False]]]
    assert cache.mask(jnp.asarray([[6], [0]])).tolist() == [
        [[False, True, True]],
        [[True, False, False]],
    ]


def test_sinks_keep_the_first_slots():
    cache = RingCache.empty(1, 4, 1, 1)
    tokens = jnp.arange(6.0).reshape(1, 6, 1, 1)
    cache = cache.write(tokens, tokens, jnp.arange(6)[None], jnp.asarray([6]), sinks=1)
    assert cache.positions_BS.tolist() == [[0, 4, 5, 3]]
    assert cache.mask(jnp.asarray([[5]]), sinks=1).tolist() == [[[True] * 4]]
    assert cache.mask(jnp.asarray([[7]]), sinks=1).tolist() == [[[True, False, True, False]]]


LOWERED = Scoring(slopes_H=(0.5, 0.01, 0.1, 0.0))


@pytest.mark.parametrize(("sinks", "scoring"), [(0, PLAIN), (2, LOWERED)], ids=str)
@pytest.mark.parametrize("calls", [[1] * 20, [7, 1, 1, 5, 6], [20], [3, 17]])
def test_in_any_pieces_it_equals_one_dense_pass(calls, sinks, scoring):
    query, key, value = draw(length=20)
    mask = window_mask(jnp.ones((2, 20), jnp.int32), 6, sinks)
    expected = attend(query, key, value, mask, scoring, Places(*[jnp.arange(20)[None]] * 2))
    step = jax.jit(partial(attend_ring, sinks=sinks, scoring=scoring))
    cache, reads, start = RingCache.empty(2, sinks + 6, 2, 8), [], 0
    for count in calls:
        piece = slice(start, start + count)
        # Calls end in two tokens of padding, which nothing may ever read.
        pads = [
            jnp.concatenate([x[:, piece], jnp.full_like(x[:, :2], 1e3)], 1)
            for x in (query, key, value)
        ]
        positions = jnp.tile(start + jnp.arange(count + 2)[None], (2, 1))
        if count == 1:
            pads, positions = [x[:, :1] for x in pads], positions[:, :1]
        lengths = jnp.full((2,), count)
        read, cache = step(*pads, positions_BT=positions, lengths_B=lengths, cache=cache)
        reads.append(read[:, :count])
        start += count
    np.testing.assert_allclose(jnp.concatenate(reads, 1), expected, atol=1e-5)


def test_a_row_that_stands_still_keeps_its_cache():
    query, key, value = draw(length=4)
    positions = jnp.tile(jnp.arange(4)[None], (2, 1))
    cache = RingCache.empty(2, 3, 2, 8).write(key, value, positions, jnp.asarray([4, 2]))
    again = (x[:, :1] for x in (query, key, value))
    read, after = attend_ring(
        *again, positions_BT=jnp.asarray([[4], [2]]), lengths_B=jnp.asarray([0, 0]), cache=cache
    )
    assert jnp.isfinite(read).all()
    jax.tree.map(np.testing.assert_array_equal, after, cache)
