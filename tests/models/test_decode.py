"""Decoding with a cache against the forward pass over the whole row."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.models import TMSModel
from rtdlm.models.tms import Params
from rtdlm.modules.attention import KVCache
from tests.models.small import ROOMY, random_params, small_config

FORMS: dict[str, dict[str, Any]] = {
    "gqa, tied, capped": {"tie_embeddings": True, "logit_soft_cap": 3.0},
    "mqa without positions": {
        "attention_type": "mqa", "num_kv_heads": None, "position_encoding": "none",
    },
    "experts with room": {"experts": ROOMY},
}  # fmt: skip
LENGTH, SLOTS = 12, 14


class Decoding:
    """One model with its forward pass, its compiled `extend` and random rows."""

    def __init__(self, **form: Any) -> None:
        self.model = TMSModel(small_config(**form))
        self.params: Params = random_params(self.model)
        ids = np.random.default_rng(8).integers(64, size=(2, LENGTH), dtype=np.int32)
        self.ids_BT = jnp.asarray(ids)
        self.whole = np.asarray(jax.jit(self.model.logits)(self.params, self.ids_BT))
        self._extend = jax.jit(self.model.extend)

    def extend(
        self, ids_BT: jax.Array, positions_BT: jax.Array, cache: KVCache
    ) -> tuple[np.ndarray, KVCache]:
        scores, cache = self._extend(self.params, ids_BT, positions_BT=positions_BT, cache=cache)
        return np.asarray(scores), cache


@pytest.fixture(scope="module", params=FORMS)
def decoding(request: pytest.FixtureRequest) -> Decoding:
    return Decoding(**FORMS[request.param])


@pytest.mark.parametrize("sizes", [(1,) * LENGTH, (5, 1, 1, 5), (LENGTH,)], ids=str)
def test_pieces_of_any_size_equal_the_forward_pass(
    decoding: Decoding, sizes: tuple[int, ...]
) -> None:
    cache, start = decoding.model.empty_cache(2, SLOTS), 0
    for size in sizes:
        positions = jnp.broadcast_to(jnp.arange(start, start + size)[None], (2, size))
        here = slice(start, start + size)
        scores, cache = decoding.extend(decoding.ids_BT[:, here], positions, cache)
        np.testing.assert_allclose(scores, decoding.whole[:, here], atol=1e-5)
        start += size
    assert start == LENGTH
    assert cache.key_BSKE.shape == (2, 2, SLOTS, decoding.model.config.kv_heads, 4)
    assert not np.asarray(cache.key_BSKE[:, :, LENGTH:]).any(), "slots beyond the row stay empty"


def test_rows_of_different_lengths_share_a_batch(decoding: Decoding) -> None:
    """Row 0 has a prompt of five tokens, row 1 of two and padding that must leave no trace."""
    lengths = np.array([5, 2])
    prompt = jnp.where(jnp.arange(5)[None] < lengths[:, None], decoding.ids_BT[:, :5], 63)
    positions = jnp.broadcast_to(jnp.arange(5)[None], (2, 5))
    scores, cache = decoding.extend(prompt, positions, decoding.model.empty_cache(2, SLOTS))
    np.testing.assert_allclose(scores[0], decoding.whole[0, :5], atol=1e-5)
    np.testing.assert_allclose(scores[1, :2], decoding.whole[1, :2], atol=1e-5)
    for step in range(LENGTH - 5):
        at = jnp.asarray(lengths + step)[:, None]
        ids = jnp.take_along_axis(decoding.ids_BT, at, axis=1)
        scores, cache = decoding.extend(ids, at, cache)
        for row in range(2):
            np.testing.assert_allclose(
                scores[row, 0], decoding.whole[row, lengths[row] + step], atol=1e-5
            )


def test_the_cache_has_the_activations_format_and_stays_near_in_bfloat16() -> None:
    decoding = Decoding(precision={"compute": "bfloat16"})
    cache = decoding.model.empty_cache(2, LENGTH)
    assert cache.key_BSKE.dtype == cache.value_BSKE.dtype == jnp.bfloat16
    positions = jnp.broadcast_to(jnp.arange(LENGTH)[None], (2, LENGTH))
    scores, cache = decoding.extend(decoding.ids_BT, positions, cache)
    assert cache.key_BSKE.dtype == jnp.bfloat16
    np.testing.assert_allclose(scores, decoding.whole, atol=0.05)
