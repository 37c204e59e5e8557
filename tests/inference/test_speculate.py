"""Speculative text: the same greedy text, the same distribution, for every kind of attention."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.config.errors import UserError
from rtdlm.config.sampling import SamplingConfig
from rtdlm.data import byte_tokenizer, train_bpe
from rtdlm.inference import Completion, DraftModel, EarlyExit, Generator, make_sampler
from rtdlm.inference import acceptance as module
from rtdlm.inference.decode import DecodeState
from rtdlm.inference.draft import draft_of
from rtdlm.inference.layout import decoding_model, split_cache, split_params
from rtdlm.inference.speculate import Pair, PairParams, SpeculativeState, rewinds, speculate
from rtdlm.models import TMSModel
from tests.inference.writers import (
    GREEDY,
    PROMPTS,
    forward,
    letters_generator,
    letters_model,
    written,
)
from tests.models.small import RICH, random_params, small_config

LETTERS, LENGTH, ROWS = 4, 3, 4096
SAMPLINGS = {
    "plain": SamplingConfig(),
    "filtered": SamplingConfig(temperature=0.7, top_k=3, top_p=0.9, repetition_penalty=1.3),
}
FORMS: dict[str, dict[str, Any]] = {
    "gqa": {},
    "rich": RICH,
    "sliding and global": {
        "attention_type": "sliding", "attention": {"window": 4, "global_every": 2},
    },
    "linear": {"num_layers": 1, "attention_type": "linear"},
    "delta": {"num_layers": 1, "attention_type": "delta", "num_kv_heads": None},
    "spiking": {"num_layers": 1, "attention_type": "spiking"},
    "sparse": {
        "attention_type": "sparse", "attention": {"window": 3, "block": 2, "chosen": 2},
    },
    "memory": {
        "num_layers": 1, "memory": {"segment": 4, "stm_window": 6, "recurrent": "gated_delta"},
    },
}  # fmt: skip


def chances(model: TMSModel, params: Any, sampling: SamplingConfig) -> np.ndarray:
    """`[V, V, V]`: the exact chance of every three tokens after token 0, by a NumPy loop."""
    rows = np.array(list(product(range(LETTERS), repeat=LENGTH)), np.int32)
    ids = np.concatenate([np.zeros((len(rows), 1), np.int32), rows[:, :-1]], axis=1)
    logits = np.asarray(jax.jit(model.logits)(params, ids), np.float64)
    total = np.ones(len(rows))
    for number, row in enumerate(rows):
        for place, token in enumerate(row):
            total[number] *= _filtered(logits[number, place], set(row[:place]), sampling)[token]
    assert total.sum() == pytest.approx(1.0)
    return total


def _filtered(logits: np.ndarray, seen: set[int], sampling: SamplingConfig) -> np.ndarray:
    logits = logits.copy()
    for token in seen:
        penalty = sampling.repetition_penalty
        logits[token] = logits[token] / penalty if logits[token] > 0 else logits[token] * penalty
    p = np.exp(logits / sampling.temperature)
    order = np.argsort(-p)[: sampling.top_k]
    kept = p[order] / p[order].sum()
    needed = 1.0 if sampling.top_p is None else sampling.top_p
    order = order[: int(np.searchsorted(np.cumsum(kept), needed)) + 1]
    found = np.zeros_like(p)
    found[order] = p[order] / p[order].sum()
    return found


def with_a_draft() -> tuple[Pair, PairParams, Any]:
    """A model and another for its draft, and the model's parameters as they are."""
    shape = {"vocab_size": LETTERS, "max_seq_len": 8, "num_layers": 1}
    pair = Pair(*(decoding_model(TMSModel(small_config(**shape))) for _ in range(2)))
    params = [random_params(model, seed=seed) for seed, model in enumerate(pair)]
    split = PairParams(*(split_params(x, dtype=pair.target.dtype) for x in params))
    return pair, split, params[0]


def with_an_early_exit() -> tuple[Pair, PairParams, Any]:
    """A model of two layers and its first layer for its draft."""
    model = TMSModel(small_config(vocab_size=LETTERS, max_seq_len=8, num_layers=2))
    target, params = decoding_model(model), random_params(model)
    own = split_params(params, dtype=target.dtype)
    draft, first = draft_of(EarlyExit(1), target, own, byte_tokenizer())
    return Pair(target, draft), PairParams(own, first), params


def drawn(
    sampling: SamplingConfig, make: Callable[[], tuple[Pair, PairParams, Any]] = with_a_draft
) -> tuple[np.ndarray, np.ndarray]:
    """How often each three tokens were written, in four batches, and their exact chances."""
    pair, split, params = make()
    # No token ends a row.
    function = jax.jit(partial(speculate, pair, num_drafted=2, end_ids=(-5,)))
    zeros, left = jnp.zeros(ROWS, jnp.int32), jnp.full(ROWS, LENGTH, jnp.int32)
    counts = np.zeros(LETTERS**LENGTH)
    for seed in range(4):
        caches = (split_cache(model.empty_cache(ROWS, 8)) for model in pair)
        seen = jnp.zeros((ROWS, LETTERS), bool)
        target = DecodeState(next(caches), zeros, zeros, seen)
        state = SpeculativeState(target, next(caches))
        sampler = make_sampler(replace(sampling, seed=seed), [np.zeros(1, int)] * ROWS)
        _, tokens_BRT = function(split, state, sampler, left, jnp.int32(LENGTH))
        flat = np.asarray(tokens_BRT).reshape(ROWS, -1)
        words = flat[flat >= 0].reshape(ROWS, LENGTH)
        codes = np.ravel_multi_index(tuple(words.T), (LETTERS,) * LENGTH)
        counts += np.bincount(codes, minlength=LETTERS**LENGTH)
    return counts, chances(pair.target, params, sampling)


def chi_square(counts: np.ndarray, chance: np.ndarray) -> tuple[float, int]:
    """The statistic over what may come at all, and its degrees of freedom."""
    may = chance > 0
    assert counts[~may].sum() == 0
    expected = chance[may] * counts.sum()
    return float(((counts[may] - expected) ** 2 / expected).sum()), int(may.sum()) - 1


@pytest.mark.parametrize(
    ("name", "make"),
    [("plain", with_a_draft), ("filtered", with_a_draft), ("plain", with_an_early_exit)],
)
def test_the_distribution_is_the_models_own(name: str, make: Any) -> None:
    """Chi-square of 16,384 texts of three tokens: within 4 standard deviations of its mean."""
    found, freedom = chi_square(*drawn(SAMPLINGS[name], make))
    assert found < freedom + 4 * (2 * freedom) ** 0.5


@pytest.mark.parametrize(
    ("rule", "wrong"),
    [
        ("leftover", lambda p, q: p),
        ("accepted", lambda p, q, uniform: uniform < 2.0),
    ],
)
def test_a_wrong_rule_fails(rule: str, wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, rule, wrong)
    found, freedom = chi_square(*drawn(SAMPLINGS["plain"]))
    assert found > 10 * freedom


@pytest.mark.parametrize("form", FORMS)
def test_greedy_text_is_the_argmax_of_the_full_forward_pass(form: str) -> None:
    """Rows of several lengths that accept different numbers of tokens, and end at `max_tokens`."""
    model, params = letters_model(**FORMS[form])
    near = jax.tree.map(
        lambda x: x * (1 + 0.05 * np.sin(np.arange(x.size)).reshape(x.shape)), params
    )
    draft = DraftModel(model, near, byte_tokenizer(), tokens=3)
    done = Generator(model, params, byte_tokenizer(), draft=draft).generate(PROMPTS, GREEDY)
    for prompt, completion in zip(PROMPTS, done, strict=True):
        assert_greedy(model, params, prompt, completion)
    calls = [completion.calls for completion in done]
    # Not fewer than whole rounds, not as many as tokens, and not all alike.
    assert min(calls) >= 5
    assert sum(calls) < 70
    assert len(set(calls)) > 1


def assert_greedy(model: TMSModel, params: Any, prompt: str, completion: Completion) -> None:
    ids, start = written(prompt, completion), completion.prompt_tokens
    logits = forward(model, params, ids)
    assert ids[start:].tolist() == logits[start - 1 : -1].argmax(-1).tolist()
    assert len(completion.tokens) == 20


def test_caches_rewind_where_every_slot_is_a_position() -> None:
    found = {}
    for name, form in (FORMS | {"depths": {"depths": {"capacity": 0.5}}}).items():
        model = TMSModel(small_config(**form))
        cache = jax.eval_shape(partial(model.empty_cache, 1, 8))
        found[name] = rewinds(model, jax.eval_shape(split_cache, cache))
    assert [name for name, does in found.items() if does] == ["gqa", "depths"]


def test_a_draft_that_is_the_model_is_always_right() -> None:
    """Greedy or drawn: five tokens a call; and a text may end anywhere within a round."""
    model, params = letters_model()
    draft = DraftModel(model, params, byte_tokenizer(), tokens=4)
    fast, plain = Generator(model, params, byte_tokenizer(), draft=draft), letters_generator()
    for sampling in (GREEDY, SamplingConfig(top_k=40, max_tokens=20, seed=2)):
        done = fast.generate(PROMPTS, sampling)
        assert [(len(found.tokens), found.calls) for found in done] == [(20, 4)] * len(PROMPTS)
    whole = plain.generate(PROMPTS, GREEDY)
    stop = whole[2].text[6:9]
    for sampling in (
        GREEDY,
        replace(GREEDY, stop=(stop,)),
        replace(GREEDY, max_tokens=100),
        replace(GREEDY, max_tokens=1),
    ):
        expected, found = (x.generate(PROMPTS, sampling) for x in (plain, fast))
        assert [x._replace(calls=0) for x in found] == [x._replace(calls=0) for x in expected]
        assert all(x.calls == len(x.tokens) for x in expected)


def test_a_row_stops_at_its_end_and_at_what_it_may_write() -> None:
    tokens = jnp.array([[5, 9, 6, 9], [5, 9, 6, 9], [5, 6, 7, 9], [9, 5, 6, 7], [5, 6, 7, 8]])
    checked = module.Checked(tokens, jnp.array([4, 1, 3, 4, 4]))
    left = jnp.array([9, 9, 9, 0, 3])
    assert module.count_written(checked, left, end_ids=(9,)).tolist() == [2, 1, 3, 0, 3]


def test_early_exit_is_the_models_first_layers() -> None:
    """With a last layer that writes nothing the first two are the whole model."""
    model, params = letters_model(num_layers=3)
    silent = {name: dict(leaves) for name, leaves in params.items()}
    for name in ("attention/output", "feedforward/down"):
        weights = silent[f"decoder/layers/block/{name}"]["w"]
        silent[f"decoder/layers/block/{name}"] = {"w": weights.at[2].set(0.0)}
    exact = Generator(model, silent, byte_tokenizer(), draft=EarlyExit(2, tokens=3))
    [completion] = exact.generate(["to be"], GREEDY)
    assert completion.calls == 5
    assert_greedy(model, silent, "to be", completion)


def test_early_exits_that_are_often_wrong_change_no_greedy_text() -> None:
    model, params = letters_model(num_layers=3)
    eager = Generator(model, params, byte_tokenizer(), draft=EarlyExit(1, tokens=3))
    done = eager.generate(PROMPTS, GREEDY)
    for prompt, completion in zip(PROMPTS, done, strict=True):
        assert_greedy(model, params, prompt, completion)
    assert 20 < sum(completion.calls for completion in done) < 80, "some accepted, some not"


@pytest.mark.parametrize(
    ("draft", "sentence"),
    [
        (EarlyExit(2), "a draft of 2 layers is not a part of the model's 2; ask for 1 to 1"),
        (EarlyExit(0), "a draft of 0 layers is not a part of the model's 2; ask for 1 to 1"),
        (EarlyExit(1, tokens=0), "a draft of 0 tokens a round proposes none; ask for 1 or more"),
    ],
)
def test_a_draft_that_cannot_be_is_told(draft: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Generator(*letters_model(), byte_tokenizer(), draft=draft)


def test_a_draft_of_another_tokenizer_or_length_is_told() -> None:
    model, params = letters_model()
    other = train_bpe(["a b a b"] * 9, vocab_size=258)
    with pytest.raises(UserError, match="the draft's tokenizer .* is another than the model's"):
        Generator(model, params, byte_tokenizer(), draft=DraftModel(model, params, other))
    short = TMSModel(model.config, max_seq_len=8, position_encoding="learned")
    draft = DraftModel(short, random_params(short), byte_tokenizer())
    with pytest.raises(UserError, match="learned positions up to max_seq_len=8 and the model"):
        Generator(model, params, byte_tokenizer(), draft=draft)
    mixed = letters_model(experts={"num_experts": 2, "layers": "sandwich"}, num_layers=4)
    for layers in (2, 3):
        with pytest.raises(UserError, match="would not have the kinds of layers"):
            Generator(*mixed, byte_tokenizer(), draft=EarlyExit(layers))
    deep = letters_model(depths={"capacity": 0.5})
    with pytest.raises(UserError, match=r"layers that choose their tokens \(depths.capacity\)"):
        Generator(*deep, byte_tokenizer(), draft=EarlyExit(1))
