"""Memory that outlives a process: given to a generator from a file, and written to one."""

from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.config.errors import UserError
from rtdlm.data import byte_tokenizer
from rtdlm.inference import Generator
from rtdlm.inference.remember import keep_memory, no_memory, read_memory
from rtdlm.models.memory import stores, with_stores
from tests.inference.writers import GREEDY, VOCABULARY, letters_model, written
from tests.models.small import RICH, assert_trees_equal

STORES = {"segment": 16, "episodic_slots": 32, "episodic_top_k": 8}
LIFE = "a long story of what was, told before: it has seventy letters and some more"
PROMPTS = ("who was it", "and of the other one that came")


@cache
def generator() -> Generator:
    """Of two layers with stores."""
    return Generator(*letters_model(num_layers=2, memory=STORES), byte_tokenizer())


def test_every_row_goes_on_from_the_memory_it_is_given() -> None:
    memory = generator().remember(LIFE)
    completions = generator().generate(PROMPTS, GREEDY, memory=memory)
    model, params = letters_model(num_layers=2, memory=STORES)
    read = jax.jit(model.read)
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        ids, start = written(prompt, completion), completion.prompt_tokens
        after = read(params, jnp.asarray(ids[None]), memory=memory)[0][0, :, :VOCABULARY]
        assert ids[start:].tolist() == after[start - 1 : -1].argmax(-1).tolist()
    alone = generator().generate(PROMPTS, GREEDY)
    assert [found.tokens for found in alone] != [found.tokens for found in completions]


def test_what_attention_and_convolutions_remember_goes_on_in_every_row() -> None:
    """Of three whole segments, read as four: what follows is as if it were one text."""
    memory = {"segment": 16, "stm_window": 24, "stm_form": "attention"}
    form = {**RICH, "num_layers": 2, "memory": memory}
    letters = Generator(*letters_model(**form), byte_tokenizer())
    before, prompt = LIFE[: 3 * 16 - 1], "Then"
    kept = letters.remember(before)
    [completion] = letters.generate([prompt], GREEDY, memory=kept)
    model, params = letters_model(**form)
    both = jnp.concatenate([letters.tokenizer.prompt(text) for text in (before, prompt)])
    ids = jnp.concatenate([both, jnp.asarray(completion.tokens)])[None]
    after = jax.jit(model.read)(params, ids)[0][0, :, :VOCABULARY]
    assert list(completion.tokens) == after[len(both) - 1 : -1].argmax(-1).tolist()


def test_a_file_gives_it_to_another_process(tmp_path: Path) -> None:
    keep_memory(generator(), LIFE, None, tmp_path / "ada.memory")
    found = read_memory(generator(), tmp_path / "ada.memory")
    # The stores; what was read last stays behind.
    assert_trees_equal(stores(found), stores(generator().remember(LIFE)))
    keep_memory(generator(), "and more", found, tmp_path / "ada.memory")
    later = stores(read_memory(generator(), tmp_path / "ada.memory"))
    # A document token and the letters, twice.
    assert [int(store.clock_B[0]) for store in later] == [len(LIFE) + len("and more") + 2] * 2


def test_what_pads_a_text_is_not_remembered() -> None:
    """Forty letters and a document token are three segments, read as four."""
    [store, _] = stores(generator().remember(LIFE[:40]))
    assert int(store.clock_B[0]) == 41
    assert np.sort(np.asarray(store.born_BM[0])).tolist() == list(range(10, 42))


def test_stores_are_those_of_layers_in_their_order() -> None:
    """Of four layers, which go in rounds of two, every second remembers."""
    config = {"num_layers": 4, "memory": {**STORES, "every": 2}}
    memory = letters_model(**config)[0].empty_memory(2)
    marked = [
        jax.tree.map(lambda x, at=at: jnp.full_like(x, at + 1), store)
        for at, store in enumerate(stores(memory))
    ]
    assert len(marked) == 2
    given = with_stores(memory, marked)
    assert_trees_equal(stores(given), marked)
    assert jax.tree.structure(given) == jax.tree.structure(memory)


def test_a_model_without_an_episodic_memory_is_refused() -> None:
    plain = Generator(*letters_model(memory={"segment": 16, "stm_window": 8}), byte_tokenizer())
    with pytest.raises(UserError, match=r"has no episodic memory to read .*memory.episodic_slots"):
        no_memory(plain)


def test_a_memory_of_a_larger_store_is_refused(tmp_path: Path) -> None:
    keep_memory(generator(), LIFE, None, tmp_path / "ada.memory")
    memory = {**STORES, "episodic_slots": 48}
    other = Generator(*letters_model(num_layers=2, memory=memory), byte_tokenizer())
    with pytest.raises(UserError, match=r"2 layers x 32 slots .* the model's 2 layers x 48 slots"):
        read_memory(other, tmp_path / "ada.memory")
