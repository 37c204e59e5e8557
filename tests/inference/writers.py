"""Generators around models with random parameters, which write nothing but letters."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rtdlm.config.sampling import SamplingConfig
from rtdlm.data import byte_tokenizer
from rtdlm.inference import Completion, Generator
from rtdlm.models import TMSModel
from rtdlm.models.tms import Params
from tests.models.small import random_params, small_config

GREEDY = SamplingConfig(temperature=0.0, max_tokens=20)
PROMPTS = ("", "a", "to be", "or not to be, that is it")
DOCUMENT = byte_tokenizer().document_id
VOCABULARY = byte_tokenizer().vocab_size


def letters_model(**overrides: Any) -> tuple[TMSModel, Params]:
    """A model of 260 tokens, and parameters under which only letters are likely."""
    model = TMSModel(small_config(vocab_size=260, max_seq_len=64, **overrides))
    params = {name: dict(arrays) for name, arrays in random_params(model).items()}
    table = "embedding" if model.config.tie_embeddings else "output"
    likely = np.zeros((260, 1), np.float32)
    likely[np.arange(ord("a"), ord("z") + 1)] = 10.0
    params["decoder"][table] = params["decoder"][table] * jnp.asarray(likely)
    return model, params


@cache
def letters_generator() -> Generator:
    """One generator for all tests that only use it."""
    return Generator(*letters_model(), byte_tokenizer())


@cache
def _logits(model: TMSModel) -> Any:
    return jax.jit(model.logits)


def forward(model: TMSModel, params: Params, ids: np.ndarray) -> np.ndarray:
    """`[T, V]`: the logits after each token, by one pass over the whole row without a cache."""
    row = np.zeros((1, model.config.max_seq_len + 1), np.int32)
    row[0, : len(ids)] = ids
    if model.config.position_encoding == "learned":
        row = row[:, :-1]
    return np.array(_logits(model)(params, row))[0, : len(ids), :VOCABULARY]


def written(prompt: str, completion: Completion) -> np.ndarray:
    """The row of tokens of which the completion is the end."""
    row = [DOCUMENT, *byte_tokenizer().encode(prompt), *completion.tokens]
    if completion.finish_reason == "document":
        row.append(DOCUMENT)
    return np.array(row, np.int32)
