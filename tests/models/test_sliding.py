"""`attention_type="sliding"` end to end: exact, with memory that its promise bounds."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.data import byte_tokenizer
from rtdlm.inference import Generator
from rtdlm.models import TMSModel
from rtdlm.modules.attention import RingCache
from tests.inference.writers import GREEDY, PROMPTS, forward, letters_model, written
from tests.models.small import (
    RICH,
    assert_trees_close,
    packed_batch,
    random_params,
    small_config,
)
from tests.models.test_decode import LENGTH, Decoding

WINDOW = 5


def sliding(window: int, **more: Any) -> dict[str, Any]:
    return {"attention_type": "sliding", "attention": {"window": window}, **more}


FORMS: dict[str, dict[str, Any]] = {
    "local": sliding(WINDOW),
    "local and global": {
        "attention_type": "sliding", "num_layers": 5,
        "attention": {"window": WINDOW, "global_every": 2},
    },
    "sinks and alibi": {
        "attention_type": "sliding", "position_encoding": "alibi",
        "attention": {"window": 3, "sinks": 2},
    },
}  # fmt: skip


@pytest.fixture(scope="module", params=FORMS)
def decoding(request: pytest.FixtureRequest) -> Decoding:
    return Decoding(**FORMS[request.param])


def test_the_window_is_seen() -> None:
    """Each layer reads four tokens back, so that two layers reach eight back and not nine."""
    model = TMSModel(small_config(**sliding(WINDOW)))
    params, ids = random_params(model), np.zeros((1, LENGTH), np.int32)
    logits = jax.jit(model.logits)
    before = np.asarray(logits(params, ids))
    ids[0, 0] = 1
    changed = (np.asarray(logits(params, ids)) != before).any(-1)[0]
    assert changed.tolist() == [True] * 9 + [False] * 3


@pytest.mark.parametrize("window", [LENGTH, 256])
def test_a_window_of_the_whole_row_is_gqa(window: int) -> None:
    batch = packed_batch(small_config(), rows=3)

    def losses_and_gradients(**form: Any) -> Any:
        model = TMSModel(small_config(**form))

        def loss(params: Any) -> tuple[jax.Array, jax.Array]:
            nll = model.batch_scores(params, batch).tokens.nll
            return jnp.sum(nll * batch.weights), nll

        return jax.jit(jax.grad(loss, has_aux=True))(random_params(model))

    assert_trees_close(losses_and_gradients(**sliding(window)), losses_and_gradients())


def test_pieces_equal_the_forward_pass_with_every_ingredient() -> None:
    """A first piece longer than the window, one that wraps round, and single tokens."""
    decoding = Decoding(**sliding(4, **RICH))
    cache, start = decoding.model.empty_cache(2, LENGTH), 0
    for size in (5, 5, 1, 1):
        here = slice(start, start + size)
        positions = jnp.broadcast_to(jnp.arange(start, start + size)[None], (2, size))
        scores, cache = decoding.extend(decoding.ids_BT[:, here], positions, cache)
        np.testing.assert_allclose(scores, decoding.whole[:, here], atol=1e-5)
        start += size
    assert start == LENGTH


@pytest.mark.parametrize("prompt", range(1, LENGTH))
def test_rows_of_any_prompt_length_decode_as_the_forward_pass(
    decoding: Decoding, prompt: int
) -> None:
    """Prompts of n and 12 - n tokens in one batch; then rows go on, each standing at times."""
    at = np.array([prompt, LENGTH - prompt])
    padded = jnp.where(jnp.arange(LENGTH)[None] < at[:, None], decoding.ids_BT, 63)
    positions = jnp.broadcast_to(jnp.arange(LENGTH)[None], (2, LENGTH))
    scores, cache = decoding.extend(
        padded, positions, decoding.model.empty_cache(2, LENGTH), at.astype(np.int32)
    )
    for row in range(2):
        found, expected = scores[row, : at[row]], decoding.whole[row, : at[row]]
        np.testing.assert_allclose(found, expected, atol=1e-5)
    for step in range(2 * LENGTH):
        running = (at < LENGTH) & np.array([step % 3 != 0, step % 2 == 0])
        here = np.minimum(at, LENGTH - 1)[:, None]
        ids = np.take_along_axis(np.asarray(decoding.ids_BT), here, axis=1)
        scores, cache = decoding.extend(
            jnp.asarray(ids), jnp.asarray(here), cache, running.astype(np.int32)
        )
        for row in np.flatnonzero(running):
            np.testing.assert_allclose(scores[row, 0], decoding.whole[row, at[row]], atol=1e-5)
        at = at + running
    assert at.tolist() == [LENGTH, LENGTH]


@pytest.mark.parametrize(("slots", "kept"), [(3, 3), (5, 5), (14, 5), (1 << 20, 5)])
def test_the_cache_holds_the_window_whatever_the_row(slots: int, kept: int) -> None:
    model = TMSModel(small_config(**sliding(WINDOW, precision={"compute": "bfloat16"})))
    kv = jax.eval_shape(lambda: model.empty_cache(3, slots)).loops[0][0].kv
    assert isinstance(kv, RingCache)
    assert kv.kv.key_BKES.shape == (2, 3, 2, 4, kept)
    assert kv.kv.value_BKSE.shape == (2, 3, 2, kept, 4)
    assert kv.kv.key_BKES.dtype == kv.kv.value_BKSE.dtype == jnp.bfloat16
    assert kv.holds_BS.shape == (2, 3, kept)


@pytest.mark.parametrize(
    "form",
    [
        sliding(WINDOW),
        {"attention_type": "sparse", "attention": {"window": WINDOW, "block": 4, "chosen": 1}},
    ],
    ids=["sliding", "sparse"],
)
def test_generation_goes_on_beyond_the_window(form: dict[str, Any]) -> None:
    """Greedy: every token is the most likely one after a forward pass over the row before it."""
    model, params = letters_model(**form)
    completions = Generator(model, params, byte_tokenizer()).generate(PROMPTS, GREEDY)
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        row = written(prompt, completion)
        likely = forward(model, params, row).argmax(-1)
        count = len(completion.tokens)
        assert count == GREEDY.max_tokens
        assert row[-count:].tolist() == likely[-count - 1 : -1].tolist()


def test_the_gradients_memory_grows_as_the_row_does_and_holds_no_square_of_it() -> None:
    def compiled(length: int) -> Any:
        model = TMSModel(small_config(**sliding(128, num_layers=1, max_seq_len=length)))
        ids = jax.ShapeDtypeStruct((1, length), jnp.int32)

        def loss(params: Any, ids: jax.Array) -> jax.Array:
            return jnp.sum(model.scores(params, ids, ids).tokens.nll)

        return jax.jit(jax.grad(loss)).lower(model.shapes, ids).compile()

    long, short = compiled(2048), compiled(1024)
    peak, half = (program.memory_analysis().temp_size_in_bytes for program in (long, short))
    assert peak < 2.3 * half
    assert not re.search(r"2048,2048[\],]", long.as_text())
