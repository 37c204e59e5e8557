"""Keys that go round the mesh axis `context`: equal to the dense form, and 1 / n of its memory."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.config import AGIConfig, MeshConfig, UserError
from rtdlm.modules.attention import attend_causally, attend_round, causal_mask
from rtdlm.modules.attention.alibi import Places, alibi_slopes
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
    ("ways", "scoring"),
    [*((ways, PLAIN) for ways in (1, 2, 3, 4, 8)), (4, Scoring(0.5, 1.5, alibi_slopes(HEADS)))],
    ids=str,
)
def test_values_and_gradients_equal_the_dense_form(ways: int, scoring: Scoring) -> None:
    *given, weights = qkv()
    segments = packed(BATCH, LENGTH)
    place_BT = jnp.broadcast_to(jnp.arange(LENGTH), segments.shape)

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


def temporary(ways: int, length: int = 512) -> int:
    """Bytes of one device beyond what it is given, forward and backward."""
    mesh = round_mesh(ways)
    place = batch_sharding(mesh)
    *given, weights = (jax.device_put(x, place) for x in qkv(length))
    segments = jax.device_put(np.ones((BATCH, length), np.int32), place)

    def loss(given: list[jax.Array], segments: jax.Array, weights: jax.Array) -> jax.Array:
        return jnp.sum(attend_round(*given, segments) * weights)

    with jax.set_mesh(mesh):
        lowered = jax.jit(jax.grad(loss)).lower(given, segments, weights)
    return int(lowered.compile().memory_analysis().temp_size_in_bytes)


def test_a_device_holds_its_share_at_most() -> None:
    alone = temporary(1)
    for ways in (2, 8):
        assert temporary(ways) <= alone / ways, ways


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
