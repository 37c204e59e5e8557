"""The llama2.c model of short stories: its greedy story is that of the reference implementation."""

import struct
from pathlib import Path

import jax
import numpy as np
import pytest

from rtdlm.config import UserError
from rtdlm.config.sampling import SamplingConfig
from rtdlm.inference import Generator
from rtdlm.interop import Pretrained, read_llama2c
from rtdlm.models import TMSModel

DATA = Path(__file__).parents[3] / "shared" / "data"
WEIGHTS, TOKENIZER = DATA / "stories260K.bin", DATA / "tok512.bin"
# The 200 tokens that llama2.c's run prints for this model at temperature 0, by its own test_all.py.
STORY = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. "
    "One day, she saw a big, red ball. She wanted to play with it, but it was too high.\n"
    "Lily's mom said, \"Lily, let's go to the park.\" Lily was sad and didn't know what to do. "
    'She said, "I want to play with your ball, but I can\'t find it."\n'
    "Lily was sad and didn't know what to do. She said, \"I'm sorry, Lily. I didn't know what to "
    "do.\"\nLily didn't want to help her mom, so she"
)
HEADER = (8, 12, 2, 2, 1, 5, 16)


@pytest.fixture(scope="module")
def stories() -> Pretrained:
    if not WEIGHTS.is_file():
        pytest.skip(f"needs {WEIGHTS}")
    return read_llama2c(WEIGHTS, TOKENIZER)


def test_the_greedy_story_is_that_of_the_reference(stories: Pretrained) -> None:
    assert stories.tokenizer is not None
    logits = jax.jit(TMSModel(stories.config, precision={"compute": "float32"}).logits)
    ids, length = [1], len(stories.tokenizer.encode(STORY))
    for _ in range(length):
        row = np.zeros((1, 256), np.int32)
        row[0, : len(ids)] = ids
        ids.append(int(np.asarray(logits(stories.params, row))[0, len(ids) - 1].argmax()))
    assert stories.tokenizer.decode(ids) == STORY
    assert stories.tokenizer.encode(STORY).tolist() == ids[1:]


@pytest.mark.parametrize("prompt", ["", "Once upon a time"])
def test_generation_tells_it_too(stories: Pretrained, prompt: str) -> None:
    """It begins with the reference's token."""
    assert stories.tokenizer is not None
    model = TMSModel(stories.config, precision={"compute": "float32"})
    generator = Generator(model, jax.device_put(stories.params), stories.tokenizer)
    greedy = SamplingConfig(temperature=0.0, max_tokens=len(stories.tokenizer.encode(STORY)))
    [completion] = generator.generate([prompt], greedy)
    assert (prompt + completion.text).startswith(STORY)


@pytest.mark.parametrize("text", ["Once upon a time", "", "  two  spaces\n", "Zoë met 🦊."])
def test_the_tokenizer_gives_back_what_it_is_given(stories: Pretrained, text: str) -> None:
    assert stories.tokenizer is not None
    assert stories.tokenizer.decode(stories.tokenizer.encode(text)) == text


def written(folder: Path, header: tuple[int, ...], floats: int) -> Path:
    file = folder / "model.bin"
    numbers = np.random.default_rng(0).normal(size=floats).astype("<f4")
    file.write_bytes(struct.pack("<7i", *header) + numbers.tobytes())
    return file


def test_a_table_of_its_own_and_shared_heads_are_read(tmp_path: Path) -> None:
    """Two layers of width 8, hidden 12, two query heads over one; 5 tokens, rows of 16."""
    layer = 8 * (1 + 8 + 4 + 4 + 8 + 1) + 3 * 8 * 12
    floats = 5 * 8 + 2 * layer + 8 + 2 * 16 * 2
    shared = read_llama2c(written(tmp_path, HEADER, floats))
    assert shared.config.tie_embeddings
    assert shared.config.kv_heads == 1
    own = read_llama2c(written(tmp_path, (*HEADER[:5], -5, 16), floats + 5 * 8))
    numbers = np.random.default_rng(0).normal(size=floats + 5 * 8).astype("<f4")
    np.testing.assert_array_equal(own.params["decoder"]["output"].ravel(), numbers[-40:])
    np.testing.assert_array_equal(own.params["decoder"]["embedding"].ravel(), numbers[:40])
    # The first layer's queries: features 0, 2 | 1, 3 of each head of four, as inputs by outputs.
    query = numbers[40 + 16 :][: 2 * 64].reshape(2, 8, 8)[0]
    expected = query[[0, 2, 1, 3, 4, 6, 5, 7]].T.reshape(8, 2, 4)
    found = own.params["decoder/layers/block/attention/query"]["w"][0]
    np.testing.assert_array_equal(found, expected)


def test_what_is_no_such_file_is_told(tmp_path: Path) -> None:
    file = tmp_path / "model.bin"
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_llama2c(file)
    file.write_bytes(b"abc")
    with pytest.raises(UserError, match="has 3 bytes, too few for a llama2.c model"):
        read_llama2c(file)
    with pytest.raises(UserError, match=r"is not a llama2.c model: its header says \(9, 12"):
        read_llama2c(written(tmp_path, (9, *HEADER[1:]), 10))
    with pytest.raises(UserError, match="has 40 bytes of weights, expected 4416 by its header"):
        read_llama2c(written(tmp_path, HEADER, 10))


def test_a_tokenizer_with_too_few_tokens_is_told(tmp_path: Path) -> None:
    file = tmp_path / "tok.bin"
    file.write_bytes(struct.pack("<i", 3) + struct.pack("<fi", 0.0, 3) + b"abc")
    floats = 4416 // 4
    with pytest.raises(UserError, match="ends after 1 tokens and the model has 5"):
        read_llama2c(written(tmp_path, HEADER, floats), file)
