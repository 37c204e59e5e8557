"""Reading the episodic store: against a loop that sorts, and on eight devices against one."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

from rtdlm.modules.memory import Reading, Store, mark_used, read_store
from rtdlm.modules.primitives.largest import largest
from tests.modules.memory.stores import BATCH, HEADS, SLOTS, WIDTH, filled, read_slowly, unit

TIME = 5
SCALE, NULL = jnp.asarray([3.0, 8.0]), jnp.asarray([0.5, -1.0])


def queries(random: np.random.Generator) -> tuple[jax.Array, jax.Array]:
    label = jnp.asarray(random.integers(0, 3, size=(BATCH, TIME)), jnp.int32)
    return jnp.asarray(unit(random, BATCH, TIME, HEADS, WIDTH)), label


read = jax.jit(read_store, static_argnames=("top_k", "any_label", "axis"))


@pytest.mark.parametrize("with_age", [False, True])
@pytest.mark.parametrize("any_label", [False, True])
@pytest.mark.parametrize("top_k", [1, 3, SLOTS, 99])
def test_a_reading_equals_the_loop(top_k: int, any_label: bool, with_age: bool) -> None:
    random = np.random.default_rng(0)
    store, (query, label) = filled(random), queries(random)
    kept: dict[str, Any] = dict(top_k=top_k, scale_H=SCALE, null_H=NULL, any_label=any_label)
    if with_age:
        place = jnp.arange(BATCH * TIME).reshape(BATCH, TIME)
        kept |= {"slope_H": jnp.asarray([2.0, 0.5]), "place_BT": place}
    found = read(query, store, label, **kept)
    expected = read_slowly(query, store, np.asarray(label), **kept)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-6)
    assert np.abs(expected[0]).max() > 0.1


def test_of_equal_scores_the_first_slots_are_read() -> None:
    random = np.random.default_rng(1)
    store = Store.empty(1, 6, HEADS, WIDTH)
    key = jnp.asarray(unit(random, 1, 1, HEADS, WIDTH))
    store = store._replace(
        key_BMHE=jnp.broadcast_to(key, store.key_BMHE.shape),
        label_BM=jnp.asarray([[1, 0, 1, 1, 1, 1]], jnp.int32),
    )
    label = jnp.ones((1, 1), jnp.int32)
    found = read(key, store, label, top_k=3, scale_H=SCALE, null_H=NULL, any_label=False)
    assert (found.used_BM[0] > 0).tolist() == [True, False, True, True, False, False]


def test_an_empty_store_reads_zero_with_a_finite_gradient() -> None:
    query, label = queries(np.random.default_rng(2))

    def total(query: jax.Array, scale: jax.Array, null: jax.Array) -> tuple[jax.Array, Reading]:
        store = Store.empty(BATCH, SLOTS, HEADS, WIDTH)
        found = read_store(query, store, label, top_k=4, scale_H=scale, null_H=null, any_label=True)
        return jnp.sum(found.read_BTHE) + jnp.sum(found.hit_BTH), found

    gradients, found = jax.jit(jax.grad(total, (0, 1, 2), has_aux=True))(query, SCALE, NULL)
    assert all((x == 0).all() for x in (*found, *gradients))


def test_gradients_equal_finite_differences() -> None:
    random = np.random.default_rng(3)
    store, (query, label) = filled(random), queries(random)
    weights = jnp.asarray(random.normal(size=query.shape), jnp.float32)

    def total(query: jax.Array, key: jax.Array, scale: jax.Array, null: jax.Array) -> jax.Array:
        own = store._replace(key_BMHE=key)
        found = read_store(query, own, label, top_k=4, scale_H=scale, null_H=null, any_label=False)
        return jnp.sum(found.read_BTHE * weights)

    given = (query, store.key_BMHE, SCALE, NULL)
    # A step that leaves the choice as it is.
    check_grads(jax.jit(total), given, order=1, modes=["rev"], eps=1e-3, atol=1e-2, rtol=1e-2)


def test_documents_are_apart_to_the_bit() -> None:
    random = np.random.default_rng(4)
    store, (query, label) = filled(random), queries(random)
    other = (store.label_BM == 2)[..., None, None]
    noise = jnp.asarray(random.normal(size=store.key_BMHE.shape), jnp.float32)
    changed = store._replace(
        key_BMHE=jnp.where(other, noise, store.key_BMHE),
        value_BMHE=jnp.where(other, noise, store.value_BMHE),
    )
    one, two = (
        read(query, own, label, top_k=3, scale_H=SCALE, null_H=NULL, any_label=False).read_BTHE
        for own in (store, changed)
    )
    mine = np.asarray(label) != 2
    np.testing.assert_array_equal(one[mine], two[mine])
    assert not np.array_equal(one[~mine], two[~mine])
    assert (one[np.asarray(label) == 0] == 0).all()


def test_a_row_reads_the_same_beside_any_other() -> None:
    random = np.random.default_rng(5)
    store, (query, label) = filled(random), queries(random)
    kept: dict[str, Any] = dict(top_k=3, scale_H=SCALE, null_H=NULL, any_label=False)
    whole = read(query, store, label, **kept)
    swapped = jax.tree.map(lambda x: x.at[0].set(x[1]), (query, store, label))
    np.testing.assert_array_equal(read(*swapped, **kept).read_BTHE[1], whole.read_BTHE[1])


def coarse(random: np.random.Generator, rows: int, places: int) -> jax.Array:
    """`[rows, places, H, E]`: unit vectors of four entries of one half, of either sign."""
    sign = random.choice([-0.5, 0.5], size=(rows, places, HEADS, WIDTH))
    return jnp.asarray(sign * (np.arange(WIDTH) < 4), jnp.float32)


@pytest.mark.parametrize("ways", [2, 8])
@pytest.mark.parametrize("top_k", [1, 5, 60])
def test_split_slots_equal_one_device(ways: int, top_k: int) -> None:
    random = np.random.default_rng(6)
    store, (query, label) = filled(random, slots=64), queries(random)
    # Few keys, in halves, whose products are exact: ties, on one device and between several.
    query, key = (coarse(random, *x.shape[:2]) for x in (query, store.key_BMHE))
    store = store._replace(key_BMHE=key)
    kept: dict[str, Any] = dict(top_k=top_k, scale_H=SCALE, null_H=NULL, any_label=False)

    def gradient(reader: Any) -> Any:
        def total(query: jax.Array) -> tuple[jax.Array, Reading]:
            found = reader(query, store, label)
            return jnp.sum(jnp.sin(found.read_BTHE)), found

        return jax.jit(jax.grad(total, has_aux=True))(query)

    expected = gradient(functools.partial(read_store, **kept))
    mesh = jax.make_mesh((ways,), ("slots",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.tree.map(lambda _: P(None, "slots"), store)._replace(clock_B=P())
    sharded = jax.shard_map(
        functools.partial(read_store, **kept, axis="slots"),
        mesh=mesh,
        in_specs=(P(), split, P()),
        out_specs=Reading(P(), P(None, "slots"), P()),
    )
    found = gradient(sharded)
    # The gradient is larger by the scale.
    np.testing.assert_allclose(found[0], expected[0], atol=1e-5)
    for ours, theirs in zip(found[1], expected[1], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    np.testing.assert_array_equal(found[1].used_BM > 0, expected[1].used_BM > 0)


@pytest.mark.parametrize("k", [1, 2, 7, 40])
def test_the_largest_equal_those_of_a_sort(k: int) -> None:
    random = np.random.default_rng(k)
    x = random.normal(size=(50, 40)).astype(np.float32) * 10.0 ** random.integers(-30, 30, (50, 1))
    x[::3] = np.round(random.normal(size=x[::3].shape))  # many ties, zeros of both signs
    x[5, 3:], x[6] = -np.inf, -np.inf
    found = jax.jit(largest, static_argnums=1)(jnp.asarray(x, jnp.float32), k)
    expected = np.zeros(x.shape, bool)
    for row, line in enumerate(np.float32(x)):
        best = sorted(np.flatnonzero(line > -np.inf), key=lambda n: (-line[n], n))[:k]
        expected[row, best] = True
    np.testing.assert_array_equal(found, expected)


def test_use_adds_up() -> None:
    store = filled(np.random.default_rng(7))
    used = jnp.ones_like(store.used_BM)
    np.testing.assert_allclose(mark_used(store, used).used_BM, store.used_BM + 1)
