"""Decoding with a cache against the forward pass over the whole row."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.models import TMSModel
from rtdlm.models.cache import DecodeCache
from rtdlm.models.layers import segments
from rtdlm.models.tms import Params
from rtdlm.modules.attention import KVCache
from tests.models.small import (
    CALLED,
    CIRCUIT,
    CONTROLLED,
    GPT,
    GRAPH,
    GRAPH_ATTENTION,
    HASHED,
    KEYS,
    OVERLAP,
    RICH,
    ROOMY,
    assert_trees_close,
    random_params,
    small_config,
)

FORMS: dict[str, dict[str, Any]] = {
    "gqa, tied, capped": {"tie_embeddings": True, "logit_soft_cap": 3.0},
    "mqa without positions": {
        "attention_type": "mqa", "num_kv_heads": None, "position_encoding": "none",
    },
    "the small GPT": GPT,
    "rich": RICH,
    "experts with room": {"experts": ROOMY},
    "half of the tokens": {"depths": {"capacity": 0.5}},
    "half of the tokens, rich": {**RICH, "depths": {"capacity": 0.5, "every": 1}},
    "experts and depths": {"experts": ROOMY, "depths": {"capacity": 0.5, "every": 1}},
    "ring": {"attention_type": "ring"},
    "sparse": {"attention_type": "sparse", "attention": {"window": 3, "block": 2, "chosen": 2}},
    "sparse and global, windows and blocks longer than a row": {
        "num_layers": 3, "attention_type": "sparse",
        "attention": {"window": 20, "block": 16, "global_every": 2},
    },
    "top keys": {
        "attention_type": "sparse",
        "attention": {"sparse_form": "topk", "window": 2, "chosen": 2, "global_tokens": 1},
    },
    "alibi": {"position_encoding": "alibi"},
    "linear": {"attention_type": "linear"},
    "delta": {"attention_type": "delta", "num_kv_heads": None, "position_encoding": "none"},
    "spiking": {"attention_type": "spiking"},
    "product keys": KEYS,
    "graph": GRAPH,
    "attention along a graph's edges": GRAPH_ATTENTION,
    "quantum circuit": CIRCUIT,
    "overlap of states": OVERLAP,
    "controller": CONTROLLED,
    "controller that calls": CALLED,
    "controller, thorough, two core layers, rich": {
        **RICH, **CONTROLLED, "num_layers": 4, "controller_strategy": "thorough",
        "controller": {"max_steps": 2, "core_layers": 2},
    },
    "graph that routes experts, without halting": {
        "graph": {"hops": 3, "halting": False, "selection": "top_k", "route_experts": True},
        "experts": ROOMY,
    },
    "hashed memory in every second layer, experts": {
        "knowledge": {**HASHED["knowledge"], "every": 2}, "experts": ROOMY,
    },
    "hashed memory, rich, half of the tokens": {
        **RICH, **HASHED, "depths": {"capacity": 0.5, "every": 1},
    },
    "experts between dense layers": {
        "num_layers": 4, "experts": {**ROOMY, "layers": "sandwich"},
    },
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
        self,
        ids_BT: jax.Array,
        positions_BT: jax.Array,
        cache: DecodeCache,
        lengths_B: np.ndarray | None = None,
    ) -> tuple[np.ndarray, DecodeCache]:
        if lengths_B is None:  # no program of its own, but in one test
            lengths_B = np.full(ids_BT.shape[:1], ids_BT.shape[1], np.int32)
        scores, cache = self._extend(
            self.params, ids_BT, positions_BT=positions_BT, cache=cache, lengths_B=lengths_B
        )
        return np.asarray(scores), cache


@cache
def decoding_of(form: str) -> Decoding:
    return Decoding(**FORMS[form])


@pytest.fixture(scope="module", params=FORMS)
def decoding(request: pytest.FixtureRequest) -> Decoding:
    return decoding_of(request.param)


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
    if not isinstance(kept := cache.loops[0][0].kv, KVCache):
        return
    keys, config = kept.key_BSKE, decoding.model.config
    assert keys.shape == (segments(config)[0].repeats, 2, SLOTS, config.kv_heads, 4)
    assert not np.asarray(keys[:, :, LENGTH:]).any(), "slots beyond the row stay empty"


def test_without_lengths_all_tokens_count() -> None:
    decoding = decoding_of("rich")
    cache, positions = decoding.model.empty_cache(2, SLOTS), jnp.arange(LENGTH)[None]
    positions = jnp.broadcast_to(positions, (2, LENGTH))
    told = decoding.extend(decoding.ids_BT, positions, cache)
    untold = jax.jit(decoding.model.extend)(
        decoding.params, decoding.ids_BT, positions_BT=positions, cache=cache
    )
    assert_trees_close(untold, told, atol=1e-6)


def test_rows_of_different_lengths_share_a_batch(decoding: Decoding) -> None:
    """Row 0 has a prompt of five tokens, row 1 of two and padding that must leave no trace.

    Then each row goes on at its own steps; where it stands still it reads its next token in vain.
    """
    at = np.array([5, 2])
    prompt = jnp.where(jnp.arange(5)[None] < at[:, None], decoding.ids_BT[:, :5], 63)
    positions = jnp.broadcast_to(jnp.arange(5)[None], (2, 5))
    scores, cache = decoding.extend(
        prompt, positions, decoding.model.empty_cache(2, SLOTS), at.astype(np.int32)
    )
    np.testing.assert_allclose(scores[0], decoding.whole[0, :5], atol=1e-5)
    np.testing.assert_allclose(scores[1, :2], decoding.whole[1, :2], atol=1e-5)
    for step in range(10):
        ids = jnp.take_along_axis(decoding.ids_BT, jnp.asarray(at)[:, None], axis=1)
        running = np.array([step % 3 != 0, step % 2 == 0], np.int32)
        scores, cache = decoding.extend(ids, jnp.asarray(at)[:, None], cache, running)
        np.testing.assert_allclose(scores[:, 0], decoding.whole[[0, 1], at], atol=1e-5)
        at = at + running
    assert at.tolist() == [11, 7]


@pytest.mark.parametrize("counted", [(0, 0), (0, 3), (1, 2), (3, 1)], ids=str)
def test_what_does_not_count_moves_nothing(counted: tuple[int, int]) -> None:
    """Of three tokens that go on each row only the first count; the state is as without others."""
    decoding = decoding_of("rich")
    empty = decoding.model.empty_cache(2, SLOTS)
    positions = jnp.broadcast_to(jnp.arange(2)[None], (2, 2))
    _, before = decoding.extend(decoding.ids_BT[:, :2], positions, empty)
    positions = jnp.broadcast_to(jnp.arange(2, 5)[None], (2, 3))
    ids = decoding.ids_BT[:, 2:5]
    _, after = decoding.extend(ids, positions, before, np.array(counted, np.int32))
    assert set(after.loops[0][0].convs) == {"attention", "queries", "keys", "values", "feedforward"}
    assert set(after.input.convs) == {"input"}
    for row, count in enumerate(counted):
        alone = before
        for step in range(count):
            here = jnp.full((2, 1), 2 + step)
            _, alone = decoding.extend(ids[:, step : step + 1], here, alone)
        for place, state in after.loops[0][0].convs.items():
            np.testing.assert_allclose(
                state[:, row], alone.loops[0][0].convs[place][:, row], atol=1e-5, err_msg=place
            )
        np.testing.assert_array_equal(after.input.recent_BJ[row], alone.input.recent_BJ[row])
        last = np.asarray(decoding.ids_BT)[row, : 2 + count][-3:] + 1
        assert after.input.recent_BJ[row].tolist() == [0] * (3 - len(last)) + last.tolist()


def test_the_cache_has_the_activations_format_and_stays_near_in_bfloat16() -> None:
    decoding = Decoding(precision={"compute": "bfloat16"})
    cache = decoding.model.empty_cache(2, LENGTH)
    assert (
        cache.loops[0][0].kv.key_BSKE.dtype == cache.loops[0][0].kv.value_BSKE.dtype == jnp.bfloat16
    )
    positions = jnp.broadcast_to(jnp.arange(LENGTH)[None], (2, LENGTH))
    scores, cache = decoding.extend(decoding.ids_BT, positions, cache)
    assert cache.loops[0][0].kv.key_BSKE.dtype == jnp.bfloat16
    np.testing.assert_allclose(scores, decoding.whole, atol=0.05)
