import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.modules.attention.spiking import WIDTH, attend_spiking
from tests.modules.attention.windows import draw, packed


def inputs(length, shift=0.0):
    """Queries, keys, values and drives, a good part of them near the threshold."""
    rng = np.random.default_rng(length)
    drive = jnp.asarray(rng.normal(size=(2, length, 2)) + shift, jnp.float32)
    return *draw(length=length), drive


def loop(query, key, value, drive, segments, dy):
    """What is read and the four gradients, query by query, in float64."""
    query, key, value, drive, dy = (
        np.asarray(x, np.float64) for x in (query, key, value, drive, dy)
    )
    y, dq, dk, dv, du = (np.zeros_like(x) for x in (query, query, key, value, drive))
    group = query.shape[2] // key.shape[2]
    for b, t, h in np.ndindex(*query.shape[:3]):
        kv = h // group
        own = [s for s in range(t + 1) if segments[b, s] == segments[b, t] > 0]
        fired = [s for s in own if drive[b, s, kv] > 0]
        odds = np.exp(key[b, :, kv] @ query[b, t, h])
        total = 1 + odds[fired].sum()
        y[b, t, h] = odds[fired] @ value[b, fired, kv] / total
        for s in own:
            weight = odds[s] / (total if s in fired else total + odds[s])
            gain = weight * dy[b, t, h] @ (value[b, s, kv] - y[b, t, h])
            du[b, s, kv] += gain * max(0.0, 1 - abs(drive[b, s, kv]) / WIDTH)
            if s in fired:
                dv[b, s, kv] += weight * dy[b, t, h]
                dq[b, t, h] += gain * key[b, s, kv]
                dk[b, s, kv] += gain * query[b, t, h]
    return y, dq, dk, dv, du


@jax.jit
def ours(query, key, value, drive, segments, dy):
    read, back, told = jax.vjp(
        lambda *x: attend_spiking(*x, segments), query, key, value, drive, has_aux=True
    )
    return (read, *back(dy)), told


# One tile; three of them and two blocks, in documents and in one, where a block skips tiles.
@pytest.mark.parametrize(("length", "shift"), [(5, 0.0), (37, -0.5), (150, 0.5), (150, -1.5)])
def test_reads_and_gradients_equal_the_loop(length, shift):
    given, segments = inputs(length, shift), packed(2, length)
    segments = segments if length < 100 else segments.at[0].set(1)
    dy = jnp.cos(jnp.arange(given[0].size, dtype=jnp.float32)).reshape(given[0].shape)
    expected = loop(*given, np.asarray(segments), dy)
    for got, wanted in zip(ours(*given, segments, dy)[0], expected, strict=True):
        np.testing.assert_allclose(got, wanted, atol=2e-5, rtol=1e-5)
    assert np.abs(expected[-1]).max() > 0.01


def test_what_is_far_below_the_threshold_is_never_touched():
    query, key, value, drive = inputs(150)
    segments, dy = jnp.ones((2, 150), jnp.int32), jnp.ones_like(query)
    silent = (drive <= -WIDTH)[..., None]
    poisoned = (query, jnp.where(silent, jnp.nan, key), jnp.where(silent, jnp.inf, value), drive)
    clean, _ = ours(query, key, value, drive, segments, dy)
    found, _ = ours(*poisoned, segments, dy)
    jax.tree.map(np.testing.assert_array_equal, found, clean)


@pytest.mark.parametrize(
    ("every", "rate", "tiles"),
    [
        (0, 0.0, 0),
        # Of 512 tokens; blocks of 128 end after 2, 4, 6 and 8 tiles of 64 keys, 20 in all.
        (1, 1.0, 20),
        # 32 spikes a block: one tile, one, two, two.
        (4, 0.25, 6),
        # Eight a block.
        (16, 0.0625, 4),
    ],
)
def test_sparsity_is_counted_where_it_is_computed(every, rate, tiles):
    query, key, value = draw(batch=1, length=512)
    spikes = jnp.arange(512) % every == 0 if every else jnp.zeros(512, bool)
    drive = jnp.tile(jnp.where(spikes, 1.0, -1.0)[None, :, None], (1, 1, 2))
    read, told = jax.jit(attend_spiking)(query, key, value, drive, jnp.ones((1, 512), jnp.int32))
    assert float(told.rate) == rate
    assert float(told.computed) == pytest.approx(tiles / 20)
    assert bool(jnp.any(read)) == bool(every)


def test_other_documents_and_padding_cost_nothing():
    """The second document's block begins at its own spikes, and padding has none."""
    query, key, value = draw(batch=1, length=512)
    segments = jnp.asarray([[1] * 256 + [2] * 128 + [0] * 128], jnp.int32)
    drive = jnp.ones((1, 512, 2))
    read, told = jax.jit(attend_spiking)(query, key, value, drive, segments)
    assert float(told.rate) == 1.0
    assert float(told.computed) == pytest.approx((2 + 4 + 2 + 0) / 20)
    assert not np.asarray(read[:, 384:]).any()


def test_bfloat16_is_near():
    given, segments = inputs(150, 0.5), jnp.ones((2, 150), jnp.int32)
    rounded = [x.astype(jnp.bfloat16) for x in given[:3]] + [given[3]]
    dy = jnp.ones_like(given[0])
    exact, _ = ours(*(x.astype(jnp.float32) for x in rounded), segments, dy)
    found, _ = ours(*rounded, segments, dy.astype(jnp.bfloat16))
    assert [x.dtype for x in found] == [jnp.bfloat16] * 4 + [jnp.float32]
    for got, wanted in zip(found, exact, strict=True):
        error = np.abs(np.asarray(got, np.float32) - wanted).max()
        assert error < 0.02 * np.abs(np.asarray(wanted)).max()
