import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Engine
from tokenizers import decoders, models

from rtdlm.data import StreamDecoder, Tokenizer, byte_tokenizer, train_bpe

BYTE = byte_tokenizer()
BPE = train_bpe(["naïve Größe 漢字 🙂 hello world"] * 9, 290)


def pieces(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    decoder = StreamDecoder(tokenizer)
    return [*(decoder.feed(i) for i in ids), decoder.finish()]


@pytest.mark.parametrize("tokenizer", [BYTE, BPE], ids=["byte", "bpe"])
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_streamed_text_is_the_text_and_characters_are_never_split(
    tokenizer: Tokenizer, text: str
) -> None:
    ids = tokenizer.encode(text).tolist()
    decoder = StreamDecoder(tokenizer)
    streamed = ""
    for token_id in ids:
        streamed += decoder.feed(token_id)
        assert text.startswith(streamed)
    assert streamed + decoder.finish() == text


@given(ids=st.lists(st.integers(0, 256), max_size=40))
def test_any_bytes_stream_to_what_they_decode_to(ids: list[int]) -> None:
    assert "".join(pieces(BYTE, ids)) == BYTE.decode(ids)


def test_a_character_comes_with_its_last_byte_and_broken_ones_at_the_end() -> None:
    assert pieces(BYTE, list("a🙂b".encode())) == ["a", "", "", "", "🙂", "b", ""]
    assert pieces(BYTE, [0x61, 0xF0, 0x9F]) == ["a", "", "", "\ufffd"]
    assert pieces(BYTE, [0xE6, 0x62]) == ["", "\ufffdb", ""]


def test_endless_junk_is_not_held_back() -> None:
    assert "".join(pieces(BYTE, [0xFF] * 10)[:-1]) == "\ufffd" * 7


def test_a_finished_decoder_starts_anew() -> None:
    decoder = StreamDecoder(BYTE)
    decoder.feed(0xF0)
    decoder.finish()
    assert decoder.feed(ord("x")) == "x"


def test_a_decoder_that_trims_the_first_space_keeps_the_others() -> None:
    words = {"▁to": 0, "▁be": 1, "s": 2, "<unk>": 3}
    engine = Engine(models.WordLevel(words, unk_token="<unk>"))
    engine.decoder = decoders.Metaspace()
    tokenizer = Tokenizer(engine.to_str().encode())
    ids = [0, 1, 2, tokenizer.document_id, 0, 1]
    assert pieces(tokenizer, ids) == ["to", " be", "s", "", " to", " be", ""]
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids)
