import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Engine
from tokenizers import decoders, models, pre_tokenizers

from rtdlm.config.errors import UserError
from rtdlm.data import DOCUMENT_TOKEN, Tokenizer, byte_tokenizer, read_tokenizer, train_bpe
from tests.data.corpora import begun_by

CORPUS = [f"def f_{i}(x):\n    return x + {i * 37}  # Größe – naïve 漢字 🙂\n" for i in range(300)]
BYTE = byte_tokenizer()
BPE = train_bpe(CORPUS, 400)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
AWKWARD = [
    "", " ", "\n\n\n", "\r\n\t", "\0\x01\x7f", "\ufeffa", "é", "e\u0301", "🙂🏽\u200d", "\ufffd",
    "\x1c\x85\u2028", DOCUMENT_TOKEN, f"a{DOCUMENT_TOKEN}b", "  indent\n    more  ",
]  # fmt: skip


@pytest.mark.parametrize("tokenizer", [BYTE, BPE], ids=["byte", "bpe"])
@given(text=TEXT)
@settings(max_examples=150)
def test_any_text_survives(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("tokenizer", [BYTE, BPE], ids=["byte", "bpe"])
@pytest.mark.parametrize("text", AWKWARD)
def test_awkward_text_survives(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.document_id not in ids  # Also where the text spells the token.


def test_byte_ids_are_the_bytes_of_the_text() -> None:
    text = "".join(map(chr, range(0x250))) + "漢🙂"
    assert BYTE.encode(text).tolist() == list(text.encode("utf-8"))
    assert (BYTE.vocab_size, BYTE.document_id, BYTE.document_token) == (257, 256, DOCUMENT_TOKEN)
    assert [BYTE.decode([i]) for i in range(128)] == [chr(i) for i in range(128)]


def test_ids_are_int32_and_batches_equal_single_texts() -> None:
    batch = BPE.encode_batch(CORPUS[:5])
    for ids, text in zip(batch, CORPUS, strict=False):
        assert ids.dtype == np.int32
        np.testing.assert_array_equal(ids, BPE.encode(text))
    assert BPE.encode_batch([]) == []


def test_bpe_learns_the_corpus_and_splits_digits_by_three() -> None:
    assert BPE.vocab_size == 400
    assert BPE.document_id == 0
    assert len(BPE.encode(CORPUS[0])) < len(CORPUS[0].encode()) / 2
    numbers = train_bpe(["123456123456"] * 9, 400)
    assert [numbers.decode([i]) for i in numbers.encode("123456")] == ["123", "456"]


def test_bpe_is_the_same_for_the_same_texts_in_any_order() -> None:
    assert train_bpe(reversed(CORPUS), 400).hash == BPE.hash


def test_a_small_corpus_gives_a_small_vocabulary() -> None:
    assert train_bpe(["ab ab"], 1000).vocab_size == 257 + len({"ab", " ab"})


def test_save_and_load_keep_ids_and_hash(tmp_path) -> None:
    path = BPE.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert path.name == "tokenizer.json"
    assert loaded.hash == BPE.hash
    assert loaded.vocab_size == BPE.vocab_size
    np.testing.assert_array_equal(loaded.encode(AWKWARD[-2]), BPE.encode(AWKWARD[-2]))
    assert loaded.encode(DOCUMENT_TOKEN).tolist() != [loaded.document_id]
    assert Engine.from_file(str(path)).get_vocab_size() == 400  # Hugging Face reads it too.


def test_what_is_put_around_a_text_makes_no_other_tokenizer() -> None:
    tree = json.loads(BYTE.definition)
    padding = {"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": None}
    padding |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"}
    around = Tokenizer(json.dumps(tree | {"padding": padding}).encode())
    other = Tokenizer(json.dumps(tree | {"normalizer": {"type": "Lowercase"}}).encode())
    assert around.hash != BYTE.hash
    assert around.encodes_like(BYTE) and BYTE.encodes_like(around)
    assert not other.encodes_like(BYTE) and not BPE.encodes_like(BYTE)


def test_documents_begin_by_the_template_behind_the_end_of_the_one_before() -> None:
    found = begun_by("<s>")
    assert (found.document_token, found.document_id, found.start_id) == ("</s>", 257, 256)
    assert (found.begin_ids, found.boundary_ids, found.end_ids) == ((256,), (257, 256), (257,))
    assert found.prompt("a").tolist() == [256, 97]
    assert 256 not in found.encode("<s>") and found.decode([256, 97, 257]) == "a"
    for plain in (begun_by("</s>"), BYTE):
        assert plain.begin_ids == plain.boundary_ids == (plain.document_id,) == (plain.start_id,)
    given = found.with_roles(begin_ids=(), end_ids=(3,))
    assert (given.begin_ids, given.boundary_ids) == ((), (257, 256)), "what is in shards stays"
    assert found.encodes_like(given) and not found.encodes_like(begun_by("</s>"))


def foreign(special: list[str]) -> bytes:
    words = {"hello": 0, "world": 1, "<unk>": 2}
    engine = Engine(models.WordLevel(words, unk_token="<unk>"))
    engine.pre_tokenizer = pre_tokenizers.Whitespace()
    engine.decoder = decoders.Fuse()
    engine.add_special_tokens(special)
    engine.enable_truncation(1)
    engine.enable_padding(length=8)
    return engine.to_str().encode()


@pytest.mark.parametrize(
    ("special", "document_token", "vocab_size"),
    [
        (["<s>", "<|endoftext|>"], "<|endoftext|>", 5),
        (["<s>", "</s>"], "</s>", 5),
        (["<s>", DOCUMENT_TOKEN], DOCUMENT_TOKEN, 5),
        (["<mask>"], DOCUMENT_TOKEN, 5),  # Added, as there is none.
        ([], DOCUMENT_TOKEN, 4),
    ],
)
def test_foreign_tokenizers_bring_or_get_a_document_token(
    tmp_path, special, document_token, vocab_size
) -> None:
    (tmp_path / "theirs.json").write_bytes(foreign(special))
    tokenizer = read_tokenizer(tmp_path / "theirs.json")
    assert tokenizer.document_token == document_token
    assert tokenizer.vocab_size == vocab_size
    assert tokenizer.encode("hello world hello").tolist() == [0, 1, 0]  # Neither cut nor padded.
    tokenizer.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert (again.document_id, again.hash) == (tokenizer.document_id, tokenizer.hash)


def test_bad_tokenizers_are_refused_in_one_sentence(tmp_path) -> None:
    with pytest.raises(UserError, match=r"^tokenizer .*none\.json cannot be read: No such file"):
        read_tokenizer(tmp_path / "none.json")
    for number, junk in enumerate([b"", b"\xff\xfe", b"{}", json.dumps({"model": 1}).encode()]):
        (tmp_path / f"{number}.json").write_bytes(junk)
        with pytest.raises(UserError, match=rf"{number}\.json is not a readable Hugging Face tok"):
            read_tokenizer(tmp_path / f"{number}.json")


def test_bpe_needs_room_for_the_bytes() -> None:
    with pytest.raises(UserError, match=r"vocab_size=256 is too small .* use at least 257"):
        train_bpe(CORPUS, 256)
