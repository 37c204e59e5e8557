"""The compiled functions: how many there are, what they update in place and what they copy."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.config import PrecisionConfig
from rtdlm.config.sampling import SamplingConfig
from rtdlm.data import byte_tokenizer
from rtdlm.inference import Generator, make_sampler
from rtdlm.inference.decode import CALL_TOKENS, NO_TOKEN, DecodeState, decode
from rtdlm.inference.layout import (
    decoding_model,
    join_cache,
    join_params,
    split_cache,
    split_params,
)
from rtdlm.models import TMSModel
from rtdlm.models.cache import DecodeCache
from rtdlm.models.tms import Params
from rtdlm.modules.attention import KVCache
from tests.inference.writers import DOCUMENT, GREEDY, VOCABULARY, letters_model
from tests.models.small import RICH, TIGHT, random_params, small_config


def test_no_option_of_sampling_and_no_other_prompt_compiles_anew() -> None:
    generator = Generator(*letters_model(), byte_tokenizer())
    for sampling in (
        GREEDY,
        SamplingConfig(max_tokens=3),
        SamplingConfig(temperature=0.7, top_k=5, seed=9, max_tokens=30),
        SamplingConfig(top_p=0.9, min_p=0.1, repetition_penalty=1.3, stop=("x",), max_tokens=40),
    ):
        for prompts in (["to be", "or"], ["not", "to be, that"]):
            generator.generate(prompts, sampling)
    assert (generator._prefill._cache_size(), generator._decode._cache_size()) == (1, 1)
    generator.generate(["a prompt of more than sixteen tokens", ""], GREEDY)
    assert (generator._prefill._cache_size(), generator._decode._cache_size()) == (2, 1)
    generator.generate(["one row"], GREEDY)
    assert (generator._prefill._cache_size(), generator._decode._cache_size()) == (3, 2)


def test_the_cache_is_handed_over() -> None:
    generator = Generator(*letters_model(), byte_tokenizer())
    rows = [generator._row(0, "to be", GREEDY)]
    state = generator._read(rows)
    sampler = make_sampler(GREEDY, [rows[0].prompt])
    arguments = (sampler, np.array([5], np.int32), np.int32(4))
    after, _ = generator._decode(generator._params, state, *arguments)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.cache))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((after, generator._params)))


@pytest.mark.parametrize("rows", [1, 3])
def test_decoding_copies_neither_the_cache_nor_the_weights(rows: int) -> None:
    """Beside its arguments a call needs memory for scores, but not for one layer's keys."""
    shape = {"d_model": 128, "d_ff": 512, "num_layers": 3, "vocab_size": 260}
    model = decoding_model(TMSModel(small_config(max_seq_len=4096, **shape)))
    slots, heads, width = 4096, 4, 32
    params = jax.eval_shape(partial(split_params, dtype=model.dtype), model.shapes)
    state = jax.eval_shape(lambda: _fresh_state(model, rows, slots))
    compiled = _compile(model, params, state, rows)
    memory = compiled.memory_analysis()
    cache_bytes = 4 * sum(leaf.size for leaf in jax.tree.leaves(state.cache))
    one_layers_keys = cache_bytes // 6
    one_layers_weights = 4 * 3 * 128 * 512
    scores = 4 * rows * slots * heads
    assert one_layers_keys == 4 * rows * slots * 2 * width
    assert memory.alias_size_in_bytes >= cache_bytes
    assert memory.temp_size_in_bytes < 3 * scores + 200_000 < one_layers_keys + scores
    assert memory.temp_size_in_bytes < one_layers_weights + 2 * scores


def test_rows_stand_still_once_they_have_ended() -> None:
    model, params = letters_model()
    model = decoding_model(model)
    split = split_params(params, dtype=model.dtype)
    sampler = make_sampler(GREEDY, [np.array([0]), np.array([1]), np.array([2])])
    state = _fresh_state(model, 3, 64)

    def run(document_id: int, left: list[int], limit: int) -> tuple[DecodeState, jax.Array]:
        function = jax.jit(partial(decode, model, end_ids=(document_id,)))
        return function(split, state, sampler, jnp.array(left, jnp.int32), jnp.int32(limit))

    after, tokens = run(DOCUMENT, [2, 0, 9], 5)
    assert tokens.shape == (3, CALL_TOKENS)
    assert (tokens != NO_TOKEN).sum(1).tolist() == [2, 0, 5]
    assert after.position_B.tolist() == [2, 0, 5]
    assert after.token_B.tolist() == [tokens[0, 1], 0, tokens[2, 4]]
    assert np.flatnonzero(after.seen_BV[0]).tolist() == sorted({*tokens[0, :2].tolist()})
    # The same, if what row 2 writes third ended documents; the rows write the same.
    document = int(tokens[2, 2])
    length = tokens[2].tolist().index(document) + 1
    after, ended = run(document, [0, 0, 9], 9)
    assert ended[2].tolist() == tokens[2, :length].tolist() + [NO_TOKEN] * (CALL_TOKENS - length)
    assert after.position_B.tolist() == [0, 0, length]


@pytest.mark.parametrize("position", [0, 2, 3, 7])
def test_one_token_is_written_where_the_row_stands_or_nowhere(position: int) -> None:
    """The way of one token a row, which differs from that of many, against a NumPy loop."""
    rng = np.random.default_rng(0)
    old = [rng.normal(size=(2, 3, 2, 4)).astype(np.float32) for _ in range(2)]
    new = [rng.normal(size=(2, 1, 2, 4)).astype(np.float32) for _ in range(2)]
    zero, many = jnp.zeros((2, 1), jnp.int32), jnp.broadcast_to(jnp.arange(3)[None], (2, 3))
    cache = KVCache.empty(2, 3, 2, 4).write(jnp.asarray(old[0]), jnp.asarray(old[1]), many)
    positions = zero.at[:, 0].set(jnp.array([1, position]))
    cache = jax.jit(KVCache.write)(cache, jnp.asarray(new[0]), jnp.asarray(new[1]), positions)
    for array, before, added in zip((cache.key_BSKE, cache.value_BSKE), old, new, strict=True):
        expected = before.copy()
        expected[0, 1] = added[0, 0]
        if position < 3:
            expected[1, position] = added[1, 0]
        np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize(
    ("form", "compute"),
    [
        ({"experts": TIGHT}, "float32"),
        ({"experts": TIGHT}, "bfloat16"),
        ({"tie_embeddings": True}, "bfloat16"),
        (RICH, "bfloat16"),
    ],
    ids=str,
)
def test_splitting_and_joining_changes_no_logit(form: dict[str, Any], compute: str) -> None:
    """Nor does storing weights in bfloat16: what the model reads in float32 stays float32."""
    decoding = decoding_model(TMSModel(small_config(**form)))
    # As where it would not be float32: not on a processor.
    model = TMSModel(replace(decoding.config, precision=PrecisionConfig(compute=compute)))
    params = random_params(model)
    ids = jnp.asarray(np.random.default_rng(3).integers(64, size=(2, 6), dtype=np.int32))
    positions = jnp.broadcast_to(jnp.arange(6)[None], (2, 6))

    @jax.jit
    def split_then_joined(params: Params) -> tuple[jax.Array, DecodeCache]:
        joined = join_params(split_params(params, dtype=model.dtype))
        cache = join_cache(split_cache(model.empty_cache(2, 8)))
        return model.extend(joined, ids, positions_BT=positions, cache=cache)

    cache = model.empty_cache(2, 8)
    expected = jax.jit(model.extend)(params, ids, positions_BT=positions, cache=cache)
    found = split_then_joined(params)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    kept = split_params(params, dtype=jnp.dtype(compute))
    stored = {leaf.dtype for leaf in jax.tree.leaves(kept)}
    assert stored == {jnp.dtype("float32"), jnp.dtype(compute)}


def test_a_decoding_model_has_the_same_parameters() -> None:
    model = TMSModel(small_config(experts=TIGHT, layer_unroll=1, remat="full"))
    changed = decoding_model(model)
    assert jax.tree.map(lambda x: x.shape, changed.shapes) == jax.tree.map(
        lambda x: x.shape, model.shapes
    )
    experts = replace(model.config.experts, capacity_factor=2.0)
    assert changed.config == replace(model.config, layer_unroll=2, remat="none", experts=experts)
    assert all(experts.capacity(length) == length for length in range(1, 300))


def _fresh_state(model: TMSModel, rows: int, slots: int) -> DecodeState:
    zeros, seen = jnp.zeros(rows, jnp.int32), jnp.zeros((rows, VOCABULARY), jnp.bool_)
    return DecodeState(split_cache(model.empty_cache(rows, slots)), zeros, zeros, seen)


def _compile(model: TMSModel, params: Any, state: DecodeState, rows: int) -> Any:
    sampler = make_sampler(GREEDY, [np.array([row]) for row in range(rows)])
    function = jax.jit(partial(decode, model, end_ids=(DOCUMENT,)), donate_argnums=1)
    return function.lower(params, state, sampler, np.zeros(rows, np.int32), np.int32(1)).compile()


def test_a_processor_decodes_in_float32_whatever_the_model_was_trained_in() -> None:
    model = TMSModel(small_config(precision={"compute": "bfloat16"}))
    decoding = decoding_model(model)
    assert (model.dtype, decoding.dtype) == (jnp.bfloat16, jnp.float32)
