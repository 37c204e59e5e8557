"""N-gram rows against Python integers, and tables looked up."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.config import NgramConfig
from rtdlm.modules.embedding import NgramTables, lookup, ngram_rows
from rtdlm.modules.primitives import look_back, packed_past
from tests.modules import reference


def tokens_of(ids: np.ndarray, segments: np.ndarray, order: int) -> list[jax.Array]:
    past = packed_past(jnp.asarray(segments), reach=order - 1)
    return look_back(jnp.asarray(ids) + 1, past, reach=order - 1, state=None)[0]


@pytest.mark.parametrize(
    ("orders", "buckets", "vocab_size"), [((2, 3, 4), 97, 50_000), ((3, 2), 150, 11), ((2,), 16, 3)]
)
def test_rows_are_those_of_the_formula(
    orders: tuple[int, ...], buckets: int, vocab_size: int
) -> None:
    rng = np.random.default_rng(1)
    ids = rng.integers(vocab_size, size=(2, 40), dtype=np.int32)
    segments = np.repeat([[1, 2, 3, 0], [1, 1, 2, 2]], 10, axis=1)
    tokens = tokens_of(ids, segments, max(orders))
    rows = ngram_rows(tokens, orders=orders, rows=buckets, vocab_size=vocab_size)
    assert rows.dtype == jnp.int32
    for row in range(2):
        expected = reference.ngram_rows(ids[row], segments[row], orders, vocab_size, buckets)
        np.testing.assert_array_equal(rows[row], expected)


def test_no_two_sequences_share_a_row_where_all_have_one() -> None:
    pairs = np.array([[new, old] for new in range(1, 8) for old in range(8)], np.int32)
    tokens = [jnp.asarray(pairs[:, :1]), jnp.asarray(pairs[:, 1:])]
    rows = ngram_rows(tokens, orders=(2,), rows=64, vocab_size=7)
    assert len(set(rows[:, 0, 0].tolist())) == len(pairs)
    assert int(rows.min()) >= 0 and int(rows.max()) < 64
    hashed = ngram_rows(tokens, orders=(2,), rows=63, vocab_size=7)
    assert len(set(hashed[:, 0, 0].tolist())) < len(pairs)


def test_a_hash_spreads_sequences_evenly() -> None:
    """Neighbouring ids are the common case; a bucket of 64 gets a sixty-fourth of them."""
    new, old = np.meshgrid(np.arange(1, 401), np.arange(1, 401))
    tokens = [jnp.asarray(new, jnp.int32), jnp.asarray(old, jnp.int32)]
    rows = ngram_rows(tokens, orders=(2,), rows=64, vocab_size=400)
    counts = np.bincount(np.asarray(rows).ravel(), minlength=64)
    expected = new.size / 64
    # Of 64 Poisson counts none is likely to be five deviations off.
    assert abs(counts - expected).max() < 5 * expected**0.5


def test_the_tables_of_an_order_hash_apart() -> None:
    """Of all pairs that share a row of one table, a sixty-fourth share a row of the other."""
    new, old = np.meshgrid(np.arange(1, 61), np.arange(1, 61))
    tokens = [jnp.asarray(new, jnp.int32), jnp.asarray(old, jnp.int32)]
    rows = ngram_rows(tokens, orders=(2,), rows=64, heads=3, vocab_size=400)
    alone = ngram_rows(tokens, orders=(2,), rows=64, vocab_size=400)
    np.testing.assert_array_equal(rows[..., 0], alone[..., 0])
    number = np.asarray(rows).reshape(-1, 3)
    assert [(own.min() // 64, own.max() // 64) for own in number.T] == [(0, 0), (1, 1), (2, 2)]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        joint = np.bincount(number[:, one] % 64 * 64 + number[:, other] % 64, minlength=64**2)
        both, shared = (joint * (joint - 1)).sum(), np.bincount(number[:, one], minlength=64)
        assert both / (shared * (shared - 1)).sum() == pytest.approx(1 / 64, rel=0.15)


def test_tables_start_at_zero_and_have_these_shapes() -> None:
    config = NgramConfig(orders=(2, 3), buckets=10, dim=4)
    ids = np.zeros((1, 5), np.int32)
    tokens = tokens_of(ids, np.ones_like(ids), 3)
    tables = hk.without_apply_rng(
        hk.transform(
            lambda: NgramTables(config, vocab_size=6)(tokens, d_model=8, dtype=jnp.float32)
        )
    )
    params = tables.init(jax.random.key(0))
    shapes = {
        f"{module}/{name}": leaf.shape
        for module, leaves in params.items()
        for name, leaf in leaves.items()
    }
    assert shapes == {"ngram/table": (20, 4), "ngram/projection/w": (2, 4, 8)}
    vectors_BTD = tables.apply(params)
    assert vectors_BTD.shape == (1, 5, 8) and not vectors_BTD.any()


def test_a_lookup_beyond_the_table_is_finite() -> None:
    def function(ids: jax.Array) -> jax.Array:
        return lookup(ids, shape=(3, 2), std=1.0, dtype=jnp.dtype("float32"), name="table")

    class Room(hk.Module):
        def __call__(self, ids: jax.Array) -> jax.Array:
            return function(ids)

    looked = hk.without_apply_rng(hk.transform(lambda ids: Room(name="room")(ids)))
    params = looked.init(jax.random.key(0), jnp.array([0]))
    table = params["room"]["table"]
    np.testing.assert_array_equal(looked.apply(params, jnp.array([1, 7])), table[jnp.array([1, 2])])
