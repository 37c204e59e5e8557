"""Writing into the episodic store: against a loop, for every way to forget."""

import collections
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.modules.memory import (
    FORGET,
    Matrix,
    Store,
    consolidation_rows,
    novelty,
    write_store,
)
from rtdlm.modules.memory.consolidate import consolidated
from tests.modules.memory.stores import BATCH, HEADS, SLOTS, WIDTH, filled, offer, write_slowly

write = jax.jit(write_store, static_argnames=("rows", "forget", "half_life"))


def assert_equal(found: Store, expected: dict[str, np.ndarray]) -> None:
    for name, ours in found._asdict().items():
        np.testing.assert_allclose(ours, expected[name], atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("tokens", "forget", "rows"),
    [
        *((7, forget, rows) for forget in FORGET for rows in (None, 4)),
        *((SLOTS + 9, "adaptive", rows) for rows in (None, 50)),
        (1, "use", None),
    ],
)
def test_writing_equals_the_loop(tokens: int, forget: str, rows: int | None) -> None:
    random = np.random.default_rng(tokens)
    store = filled(random)
    for _ in range(3):
        given = offer(random, tokens)
        surprise = random.random((BATCH, tokens)).astype(np.float32)
        surprise[:, ::2] = 0.5  # ties
        kept: dict[str, Any] = dict(rows=rows, forget=forget, half_life=30.0)
        expected = write_slowly(store, *map(np.asarray, given), surprise=surprise, **kept)
        store = write(store, *given, surprise_BS=jnp.asarray(surprise), **kept)
        assert_equal(store, expected)


def test_by_age_it_is_a_ring() -> None:
    random = np.random.default_rng(0)
    store, last = Store.empty(1, 5, HEADS, WIDTH), collections.deque[int](maxlen=5)
    for tokens in (2, 3, 1, 4, 9, 1):
        *given, label, ids = offer(random, tokens, batch=1)
        store = write(store, *given, label, ids)
        last.extend(ids[0][label[0] > 0].tolist())
        order = jnp.argsort(store.born_BM[0])
        held = store.token_BM[0][order][store.label_BM[0][order] > 0]
        assert held.tolist() == list(last)
        # Nothing moves: a token takes the slot of the token that is as many places older.
        born = store.born_BM[0][store.label_BM[0] > 0]
        assert ((born - 1) % 5 == jnp.arange(len(born))).all()


def test_half_lives_default_to_eight_stores() -> None:
    random = np.random.default_rng(1)
    store, given = filled(random), offer(random, 3)
    for forget in FORGET:
        one = write(store, *given, forget=forget)
        two = write(store, *given, forget=forget, half_life=8.0 * SLOTS)
        jax.tree.map(np.testing.assert_array_equal, one, two)


def test_padding_leaves_no_trace() -> None:
    random = np.random.default_rng(2)
    store, (key, value, _, ids) = filled(random), offer(random, 6)
    after = write(store, key, value, jnp.zeros_like(ids), ids, forget="adaptive")
    jax.tree.map(np.testing.assert_array_equal, after, store)


@pytest.mark.parametrize("forget", FORGET)
def test_a_row_is_written_the_same_beside_any_other(forget: str) -> None:
    random = np.random.default_rng(3)
    given = (filled(random), *offer(random, 7))
    whole = write(*given, rows=3, forget=forget)
    swapped = jax.tree.map(lambda x: x.at[0].set(x[1]), given)
    beside = write(*swapped, rows=3, forget=forget)
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[1], y[1]), beside, whole)


def test_a_store_keeps_its_own_format() -> None:
    given = offer(np.random.default_rng(4), 4)
    store = write(Store.empty(BATCH, SLOTS, HEADS, WIDTH, dtype=jnp.bfloat16), *given)
    assert store.key_BMHE.dtype == store.value_BMHE.dtype == jnp.bfloat16


def test_novelty_equals_the_loop() -> None:
    random = np.random.default_rng(5)
    store, (key, _, label, _) = filled(random), offer(random, 9)
    key = key.at[0, 4].set(store.key_BMHE[0, 2]).at[1, 8].set(key[1, 3])
    label = label.at[0, 4].set(store.label_BM[0, 2]).at[1, 8].set(2).at[1, 3].set(2)
    found = jax.jit(novelty)(key, label, store)
    for b, s in np.ndindex(*label.shape):
        own = label[b, s]
        seen = [store.key_BMHE[b, m] for m in range(SLOTS) if store.label_BM[b, m] == own]
        seen += [key[b, earlier] for earlier in range(s) if label[b, earlier] == own]
        best = max([0.0, *(float(jnp.mean(jnp.sum(x * key[b, s], -1))) for x in seen)])
        expected = 1 - best if own > 0 else 0
        np.testing.assert_allclose(found[b, s], expected, atol=1e-6)
    assert found[1, 8] < 1e-6


def test_a_stream_cut_anywhere_is_as_novel() -> None:
    random = np.random.default_rng(6)
    given = offer(random, 10)
    empty = Store.empty(BATCH, 16, HEADS, WIDTH)
    once = write(empty, *given)
    pieces = empty
    for cut in (slice(0, 3), slice(3, 4), slice(4, 10)):
        pieces = write(pieces, *(x[:, cut] for x in given))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), pieces, once)


def test_what_was_read_most_is_replayed_first() -> None:
    store = filled(np.random.default_rng(7))
    # An empty slot that pretends, and a row in which one slot alone was read.
    used = store.used_BM.at[1].set(0).at[1, 4].set(2.0)
    store = store._replace(used_BM=used, label_BM=store.label_BM.at[1, 4].set(1).at[0, 0].set(0))
    store = store._replace(used_BM=store.used_BM.at[0, 0].set(99.0))
    found = consolidation_rows(store, 3)
    for b in range(BATCH):
        worth = np.where(store.label_BM[b] > 0, np.asarray(store.used_BM[b]), np.float32(0))
        best = np.argsort(-worth, kind="stable")[:3]
        np.testing.assert_array_equal(found.weight_Bn[b], worth[best])
        np.testing.assert_array_equal(found.key_BnHE[b], store.key_BMHE[b, best])
        np.testing.assert_array_equal(found.value_BnHE[b], store.value_BMHE[b, best])
    assert found.weight_Bn[1].tolist() == [2.0, 0.0, 0.0]


def test_consolidation_tells_the_matrix_what_was_read() -> None:
    random = np.random.default_rng(8)
    store = filled(random)
    store = store._replace(used_BM=store.used_BM.at[1].set(0).at[1, 4].set(2.0))
    store = store._replace(label_BM=store.label_BM.at[1, 4].set(1))
    before = random.normal(size=(BATCH, HEADS, WIDTH, WIDTH)).astype(np.float32)
    matrix = Matrix(jnp.asarray(before), jnp.array([1, 2], jnp.int32))
    found = jax.jit(consolidated, static_argnames="rows")(store, matrix, rows=3)
    for b in range(BATCH):
        state = before[b]
        for slot in np.argsort(-np.asarray(store.used_BM[b]), kind="stable")[:3]:
            if store.used_BM[b, slot] > 0:
                key, value = (np.asarray(x[b, slot]) for x in (store.key_BMHE, store.value_BMHE))
                missing = value - np.einsum("HE,HEF->HF", key, state)
                state = state + np.einsum("HE,HF->HEF", key, missing)
        np.testing.assert_allclose(found.state_BHEF[b], state, atol=1e-5)
    assert not np.allclose(found.state_BHEF[1], before[1])
    np.testing.assert_array_equal(found.label_B, matrix.label_B)
