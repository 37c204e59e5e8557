"""Generated text against full forward passes, alone against in company, and how it ends."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.config import AGIConfig
from rtdlm.config.errors import UserError
from rtdlm.config.sampling import SamplingConfig
from rtdlm.data import byte_tokenizer, train_bpe
from rtdlm.inference import Completion, Generator, make_sampler, sample
from rtdlm.inference import generate as module
from rtdlm.models import TMSModel
from tests.inference.writers import (
    DOCUMENT,
    GREEDY,
    PROMPTS,
    VOCABULARY,
    forward,
    letters_generator,
    letters_model,
    written,
)
from tests.models.small import GPT, RICH, ROOMY, TIGHT, random_params

FORMS: dict[str, dict[str, Any]] = {
    "gqa": {},
    "mqa without positions": {
        "attention_type": "mqa", "num_kv_heads": None, "position_encoding": "none",
    },
    "mha, tied, capped, scanned": {
        "attention_type": "mha", "num_kv_heads": None, "tie_embeddings": True,
        "logit_soft_cap": 30.0, "layer_unroll": 1,
    },
    "the small GPT, untied": {**GPT, "tie_embeddings": False},
    "rich": RICH,
    "experts": {"experts": TIGHT},
}  # fmt: skip
DRAWN = SamplingConfig(
    temperature=1.5, top_k=40, top_p=0.95, min_p=0.001, repetition_penalty=1.2, max_tokens=20
)


@pytest.mark.parametrize(
    ("form", "read_at_once"),
    [*((form, 256) for form in FORMS), ("gqa", 8), ("rich", 8), ("experts", 8)],
)
def test_greedy_tokens_are_the_argmax_of_the_full_forward_pass(
    form: str, read_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts of several lengths in one batch, read whole or in pieces of eight tokens.

    Experts decode as with room for all, whatever they dropped in training.
    """
    monkeypatch.setattr(module, "PREFILL_TOKENS", read_at_once)
    monkeypatch.setattr(module, "MIN_SLOTS", 1)  # No more slots than needed.
    model, params = letters_model(**FORMS[form])
    whole = letters_model(experts=ROOMY)[0] if form == "experts" else model
    completions = Generator(model, params, byte_tokenizer()).generate(PROMPTS, GREEDY)
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        ids = written(prompt, completion)
        logits = forward(whole, params, ids)
        start = completion.prompt_tokens
        assert ids[start:].tolist() == logits[start - 1 : -1].argmax(-1).tolist()
    assert len({completion.text for completion in completions}) == len(PROMPTS)


def test_drawn_tokens_are_samples_of_the_full_forward_pass() -> None:
    """Each at its own position, with what the row holds by then as seen, but the document token."""
    model, params = letters_model()
    [completion] = letters_generator().generate(["to be"], DRAWN)
    ids, start = written("to be", completion), completion.prompt_tokens
    logits = forward(model, params, ids)
    sampler = make_sampler(DRAWN, [ids[:start]])
    seen = np.zeros((1, VOCABULARY), np.bool_)
    for position in range(1, len(ids)):
        if position >= start:
            scores, place = jnp.asarray(logits[position - 1][None]), jnp.array([position])
            token = sample(scores, sampler, position_B=place, seen_BV=jnp.asarray(seen))
            assert int(token[0]) == ids[position]
        seen[0, ids[position]] = True
    assert len(ids) - start == 20


@pytest.mark.parametrize("sampling", [GREEDY, DRAWN], ids=["greedy", "drawn"])
def test_a_prompt_alone_gets_the_text_that_it_gets_in_company(sampling: SamplingConfig) -> None:
    generator = letters_generator()
    together = generator.generate(PROMPTS, sampling)
    for prompt, completion in zip(PROMPTS, together, strict=True):
        assert generator.generate([prompt], sampling) == [completion]


def test_the_seed_decides_the_text_and_a_repeated_prompt_gets_another() -> None:
    generator = letters_generator()

    def texts(*prompts: str, seed: int) -> list[str]:
        done = generator.generate(prompts, replace(DRAWN, seed=seed))
        return [completion.text for completion in done]

    first = texts("a", "a", seed=1)
    assert texts("a", "a", seed=1) == first
    assert first[0] != first[1]
    assert not set(texts("a", "a", seed=2)) & set(first)


@pytest.mark.parametrize("sampling", [GREEDY, DRAWN], ids=["greedy", "drawn"])
def test_a_stop_string_over_three_tokens_trims_the_text(sampling: SamplingConfig) -> None:
    generator = letters_generator()
    [whole] = generator.generate(["to be"], sampling)
    stop = whole.text[6:9]
    size = whole.text.find(stop)
    chunks = list(generator.stream("to be", replace(sampling, stop=("never", stop))))
    assert "".join(chunk.text for chunk in chunks) == whole.text[:size]
    expected = Completion(whole.text[:size], whole.tokens[: size + 3], "stop", 6, size + 3)
    assert chunks[-1].completion == expected


def test_it_streams() -> None:
    """Rows come in turn, pieces join to the text, and the last piece brings the completion."""
    generator = letters_generator()
    expected = generator.generate(PROMPTS, DRAWN)
    chunks = list(generator.stream(PROMPTS, DRAWN))
    for row, completion in enumerate(expected):
        own = [chunk for chunk in chunks if chunk.row == row]
        assert "".join(chunk.text for chunk in own) == completion.text
        assert [chunk.completion for chunk in own] == [None] * (len(own) - 1) + [completion]
        assert len(own) > 2
    assert [chunk.row for chunk in chunks[:4]] == [0, 1, 2, 3]


def test_the_number_of_tokens_a_call_changes_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = letters_generator()
    expected = generator.generate(PROMPTS, DRAWN)
    monkeypatch.setattr(module, "_next_limit", lambda limit, seconds: 3)
    assert generator.generate(PROMPTS, DRAWN) == expected


def test_calls_grow_while_they_are_quick_and_shrink_when_slow() -> None:
    cases = [(1, 0.01, 2), (8, 0.04, 16), (16, 0.01, 16), (4, 0.07, 4), (8, 0.2, 4), (1, 9.0, 1)]
    for limit, seconds, expected in cases:
        assert module._next_limit(limit, seconds=seconds) == expected


@pytest.mark.parametrize("penalty", [1.0, 3.0])
def test_a_document_ends_where_the_model_ends_it(penalty: float) -> None:
    """The document token, which starts every row, is not what a penalty on repetition is for."""
    model, params = letters_model()
    output = params["decoder"]["output"]
    # Likelier than any letter, but only in some places.
    params["decoder"]["output"] = output.at[DOCUMENT].set(1.3 * output[ord("e")])
    generator = Generator(model, params, byte_tokenizer())
    completions = generator.generate(PROMPTS, replace(GREEDY, repetition_penalty=penalty))
    assert "document" in {row.finish_reason for row in completions if row.tokens}
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        ids = written(prompt, completion)
        logits = forward(model, params, ids)
        for position in range(completion.prompt_tokens, len(ids)):
            scores, seen = logits[position - 1], np.unique(ids[1:position])
            lower = np.where(scores > 0, scores / penalty, scores * penalty)
            scores[seen] = lower[seen]
            assert ids[position] == scores.argmax()
        assert DOCUMENT not in completion.tokens


def test_the_text_ends_with_the_context() -> None:
    """64 tokens are read at most: with 63 in the prompt two more can be written."""
    generator = letters_generator()
    long = replace(GREEDY, max_tokens=1000)
    for size, left in ((63, 1), (62, 2), (61, 3)):
        [completion] = generator.generate(["x" * size], long)
        assert (completion.prompt_tokens, len(completion.tokens)) == (size + 1, left)
        assert completion.finish_reason == "length"


def test_a_prompt_beyond_the_context_is_refused_before_anything_is_written() -> None:
    with pytest.raises(UserError) as raised:
        letters_generator().stream(["fine", "x" * 70], GREEDY)
    assert str(raised.value) == (
        "prompt 1 has 71 tokens with what begins it and the model reads at most "
        "max_seq_len=64; shorten it by 7 tokens"
    )


def test_with_memory_a_text_may_be_longer_than_a_training_row() -> None:
    memory = {"segment": 16, "stm_window": 8, "episodic_slots": 16, "task_tokens": 2}
    model, params = letters_model(num_layers=1, memory=memory)
    prompt = "to be or not to be, that is the question " * 3
    [completion] = Generator(model, params, byte_tokenizer()).generate([prompt], GREEDY)
    ids, start = written(prompt, completion), completion.prompt_tokens
    assert start > 2 * model.config.max_seq_len - 10
    logits = jax.jit(model.logits)(params, ids[None])[0, :, :VOCABULARY]
    assert ids[start:].tolist() == logits[start - 1 : -1].argmax(-1).tolist()
    assert len(completion.tokens) == 20


def test_a_tokenizer_that_the_model_has_no_rows_for_is_refused() -> None:
    model = TMSModel(AGIConfig.from_preset("tiny", vocab_size=256))
    with pytest.raises(UserError) as raised:
        Generator(model, {}, byte_tokenizer())
    assert str(raised.value) == (
        "the tokenizer has 257 tokens and the model vocab_size=256; use the tokenizer it was "
        "trained with"
    )


def test_rows_of_the_table_that_are_no_token_are_never_written() -> None:
    model, params = letters_model()
    output = params["decoder"]["output"]
    params["decoder"]["output"] = output.at[VOCABULARY:].set(9 * output[ord("e") : ord("e") + 3])
    completions = Generator(model, params, byte_tokenizer()).generate(PROMPTS, GREEDY)
    assert completions == letters_generator().generate(PROMPTS, GREEDY)


def test_no_prompts_no_text() -> None:
    assert letters_generator().generate([], GREEDY) == []


def test_a_learned_vocabulary_reads_and_writes_its_own_tokens() -> None:
    tokenizer = train_bpe(["to be or not to be, that is the question " * 3], 257 + 20)
    model = TMSModel(letters_model()[0].config, vocab_size=tokenizer.vocab_size)
    generator = Generator(model, random_params(model), tokenizer)
    [completion] = generator.generate(["that is"], GREEDY)
    assert completion.prompt_tokens == 1 + len(tokenizer.encode("that is")) < 8
    assert completion.text == tokenizer.decode(completion.tokens)
