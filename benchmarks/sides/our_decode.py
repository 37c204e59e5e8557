"""Our `Generator`: text in, text out, with its cache."""

import time

import jax
import numpy as np
from tokenizers import Tokenizer as Engine
from tokenizers import decoders, models, pre_tokenizers

from benchmarks.child import Answer, Spec
from rtdlm.config import AGIConfig
from rtdlm.config.sampling import SamplingConfig
from rtdlm.data import Tokenizer
from rtdlm.inference import Generator
from rtdlm.models import TMSModel


def measure(spec: Spec) -> Answer:
    """Spec: `config`, `batch`, `prompt`, `tokens`, `tries`, `temperature`, `top_k`.

    Answer: `speed`, the best of the tries [tokens/s], all rows together, prompts included in the
    time as they are on the other side.
    """
    config = AGIConfig.from_dict(spec["config"])
    model, tokenizer = TMSModel(config), full_tokenizer(config.vocab_size)
    params = jax.jit(model.init)(jax.random.key(0))
    generator = Generator(model, params, tokenizer)
    rng = np.random.default_rng(0)
    letters = rng.integers(ord("A"), ord("Z") + 1, size=(spec["batch"], spec["prompt"] - 1))
    prompts = ["".join(map(chr, row)) for row in letters]
    best = 0.0
    for seed in range(spec["tries"] + 1):
        sampling = SamplingConfig(
            temperature=spec["temperature"],
            top_k=spec["top_k"],
            max_tokens=spec["tokens"],
            seed=seed,
        )
        start = time.perf_counter()
        done = generator.generate(prompts, sampling)
        seconds = time.perf_counter() - start
        assert {completion.prompt_tokens for completion in done} == {spec["prompt"]}
        best = max(best, sum(len(completion.tokens) for completion in done) / seconds)
    return {"speed": best}


def full_tokenizer(vocab_size: int) -> Tokenizer:
    """A tokenizer of exactly `vocab_size` ids, a letter a token; the rest are words of their own.

    A fresh model draws from all of them, so that sampling and decoding meet a whole vocabulary.
    """
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())[: vocab_size - 1]
    words = [f"w{number}" for number in range(vocab_size - 1 - len(letters))]
    vocabulary = {token: place for place, token in enumerate([*letters, *words])}
    engine = Engine(models.BPE(vocab=vocabulary, merges=[]))
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    engine.decoder = decoders.ByteLevel()
    return Tokenizer(engine.to_str().encode("utf-8"))
