"""Keys that go round the mesh axis `context`: equal to the dense form, and 1 / n of its memory."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.config import AGIConfig, MeshConfig, UserError
from rtdlm.modules.attention import attend_causally, attend_round, causal_mask
from rtdlm.modules.attention.alibi import Places, alibi_slopes
from rtdlm.modules.attention.ring_attention import owners
from rtdlm.modules.attention.scoring import PLAIN, Scoring
from rtdlm.parallel import batch_sharding, make_mesh
from tests.modules.attention.windows import packed

BATCH, LENGTH, HEADS, KV_HEADS, WIDTH = 2, 48, 4, 2, 8


def qkv(length: int = LENGTH, dtype: Any = jnp.float32) -> list[jax.Array]:
    rng = np.random.default_rng(0)
    shapes = [(BATCH, length, heads, WIDTH) for heads in (HEADS, KV_HEADS, KV_HEADS, HEADS)]
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def round_mesh(ways: int) -> jax.sharding.Mesh:
    return make_mesh(MeshConfig(context=ways), jax.devices()[:ways])


@pytest.mark.parametrize(
    ("ways", "length", "scoring"),
    [
        *((ways, 6 * ways, PLAIN) for ways in range(1, 9)),
        # Three tiles of queries, of which the last is not full.
        (2, 600, PLAIN),
        (2, 600, Scoring(0.5, 1.5, alibi_slopes(HEADS))),
        # Blocks that have no halves.
        (3, 27, PLAIN),
    ],
    ids=str,
)
def test_values_and_gradients_equal_the_dense_form(
    ways: int, length: int, scoring: Scoring
) -> None:
    *given, weights = qkv(length)
    segments = packed(BATCH, length)
    place_BT = jnp.broadcast_to(jnp.arange(length), segments.shape)

    def dense(*given: jax.Array) -> jax.Array:
        places = Places(place_BT, place_BT)
        read = attend_causally(*given, causal_mask(segments), scoring, places)
        return jnp.sum(read * weights), read

    def ring(*given: jax.Array) -> jax.Array:
        read = attend_round(*given, segments, scoring)
        return jnp.sum(read * weights), read

    expected = jax.jit(jax.grad(dense, (0, 1, 2), has_aux=True))(*given)
    with jax.set_mesh(round_mesh(ways)):
        found = jax.jit(jax.grad(ring, (0, 1, 2), has_aux=True))(*given)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_changed_future_leaves_the_past_bitwise_unchanged() -> None:
    *given, _ = qkv()
    segments = jnp.ones((BATCH, LENGTH), jnp.int32)
    with jax.set_mesh(round_mesh(4)):
        read = jax.jit(attend_round)
        before = read(*given, segments)
        after = read(*(x.at[:, 30:].add(1.0) for x in given), segments)
    np.testing.assert_array_equal(after[:, :30], before[:, :30])
    assert not np.allclose(after[:, 30:], before[:, 30:])


def test_what_is_later_is_not_computed() -> None:
    """Values that are no numbers would spoil what gives them no weight."""
    query, key, value, _ = qkv(8 * 128)
    segments = jnp.ones((BATCH, 8 * 128), jnp.int32)
    value = value.at[:, -128:].set(jnp.nan)

    def early(query: jax.Array) -> tuple[jax.Array, jax.Array]:
        read = attend_round(query, key, value, segments)
        return jnp.sum(read[:, :-128]), read

    with jax.set_mesh(round_mesh(4)):
        slopes, read = jax.jit(jax.grad(early, has_aux=True))(query)
    for found in (read, slopes):
        assert np.isfinite(found[:, :-128]).all()
        assert np.isnan(found[:, -128:]).all()


@pytest.mark.parametrize("ways", [2, 3, 8])
def test_every_device_is_dealt_as_much_work(ways: int) -> None:
    dealt: list[list[int]] = [[] for _ in range(ways)]
    with jax.set_mesh(round_mesh(ways)):
        for half in (0, 1):
            sent = owners(half)
            assert [place for place, _ in sent] == list(range(ways))
            for place, owner in sent:
                dealt[owner].append(2 * place + half)
    # Half number h reads itself and the h halves before it.
    assert [sum(half + 1 for half in halves) for halves in dealt] == [2 * ways + 1] * ways


def temporary(ways: int, read: Callable[..., jax.Array]) -> int:
    """Bytes of one device beyond what it is given, forward and backward, for 1,024 tokens."""
    mesh = round_mesh(ways)
    place = batch_sharding(mesh)
    *given, weights = (jax.device_put(x, place) for x in qkv(1024))
    segments = jax.device_put(np.ones((BATCH, 1024), np.int32), place)

    def loss(given: list[jax.Array], segments: jax.Array, weights: jax.Array) -> jax.Array:
        return jnp.sum(read(*given, segments) * weights)

    with jax.set_mesh(mesh):
        lowered = jax.jit(jax.grad(loss)).lower(given, segments, weights)
    return int(lowered.compile().memory_analysis().temp_size_in_bytes)


def test_a_device_holds_its_share_of_what_one_alone_holds() -> None:
    alone = temporary(1, attend_round)
    dense = temporary(1, lambda q, k, v, segments: attend_causally(q, k, v, causal_mask(segments)))
    assert alone < dense
    for ways in (2, 4, 8):
        # A twentieth more for what does not split.
        assert temporary(ways, attend_round) <= 1.05 * alone / ways, ways


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"attention_type": "gqa"}, "mesh.context=4 has no effect with attention_type='gqa'"),
        ({"max_seq_len": 30}, "max_seq_len=30 does not split over mesh.context=4"),
        (
            {"warmup": {"seq_len": 2, "seq_len_steps": 9}, "max_seq_len": 32},
            "warmup.seq_len=2 does not split over mesh.context=4",
        ),
    ],
)
def test_what_does_not_split_is_refused(changes: dict[str, Any], words: str) -> None:
    given = {"attention_type": "ring", "mesh": {"context": 4}, **changes}
    with pytest.raises(UserError, match=words):
        AGIConfig.from_preset("tiny", **given)
