import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from rtdlm.config.errors import UserError
from rtdlm.data import byte_tokenizer, train_bpe
from rtdlm.data.documents import NotTextError, Piece, cut, read_pieces
from rtdlm.data.sources import describe

LINES = st.lists(
    st.sampled_from(
        ["", " ", "\t", "word", "    x = 1", "two words, end.", "}", "12", "漢字", "\r"]
    ),
    max_size=60,
).map("\n".join)
BPE = train_bpe(["    x = 1\n\n}\nword two words, end.\r\n"] * 50, 300)


def blocks_of(text: str, size: int) -> Iterator[str]:
    return (text[start : start + size] for start in range(0, len(text), size))


def texts(path: Path, *, limit: int = 1000) -> list[str]:
    source = describe(path, name=path.name, named=True)
    return [piece.text for piece in read_pieces(source, limit=limit)]


@given(text=LINES, limit=st.integers(4, 80), block=st.integers(1, 200))
@settings(max_examples=300)
def test_pieces_join_to_the_text_whatever_the_blocks(text: str, limit: int, block: int) -> None:
    pieces = list(cut([text], limit=limit))
    assert pieces == list(cut(blocks_of(text, block), limit=limit))
    if not text.strip() and len(text) <= limit:
        assert pieces == []
        return
    assert "".join(piece.text for piece in pieces) == text
    assert [piece.first for piece in pieces] == [True] + [False] * (len(pieces) - 1)
    assert all(0 < len(piece.text) <= limit for piece in pieces)
    assert all(len(piece.text) > limit // 2 for piece in pieces[:-1])


@given(text=LINES)
@settings(max_examples=300)
def test_cutting_does_not_change_the_tokens(text: str) -> None:
    pieces = [piece.text for piece in cut([text], limit=40)]
    # Only cuts at lines promise it; without a line end in half the limit there are others.
    if pieces and all(piece.endswith("\n") for piece in pieces[:-1]):
        for tokenizer in (BPE, byte_tokenizer()):
            joined = np.concatenate(tokenizer.encode_batch(pieces))
            np.testing.assert_array_equal(joined, tokenizer.encode(text))


@pytest.mark.parametrize(
    ("text", "limit", "expected"),
    [
        ("aa\nbb\n\ncc\ndd\n", 12, ["aa\nbb\n\n", "cc\ndd\n"]),  # A paragraph before a line,
        ("aa\nbb\ncc dd ee", 11, ["aa\nbb\n", "cc dd ee"]),  # a line before a word,
        ("aaaa bbbb cccc", 11, ["aaaa bbbb", " cccc"]),  # a word, with its space,
        ("abcdefghij", 4, ["abcd", "efgh", "ij"]),  # else anywhere.
        ("a\n\n   b\n", 5, ["a\n\n", "   b\n"]),  # Indentation stays with its line,
        ("ab\n\n\n\nb\n", 6, ["ab\n\n\n\n", "b\n"]),  # blank lines with the one before.
        ("short", 5, ["short"]),
    ],
)
def test_where_cuts_fall(text: str, limit: int, expected: list[str]) -> None:
    assert [piece.text for piece in cut([text], limit=limit)] == expected


def test_text_files_are_read_as_they_are(tmp_path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffline\r\nnächste".encode())
    assert texts(path) == ["line\r\nnächste"]  # Only a byte-order mark goes.


def test_a_character_may_lie_across_blocks(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("rtdlm.data.documents._BLOCK_BYTES", 3)
    path = tmp_path / "a.txt"
    path.write_text("aä漢🙂" * 20, encoding="utf-8")
    assert texts(path) == ["aä漢🙂" * 20]


@pytest.mark.parametrize("block", [4, 1 << 20])
@pytest.mark.parametrize(
    ("junk", "found"),
    [
        (b"abcdef\xff", "not UTF-8: byte 0xff at offset 6"),
        ("aé".encode() + b"\xe6\xbc", "not UTF-8: byte 0xe6 at offset 3"),
        ("ü".encode("latin-1") + b"ber", "not UTF-8: byte 0xfc at offset 0"),
        (b"\xef\xbb\xbfabc\xff", "not UTF-8: byte 0xff at offset 6"),
        (b"GIF89a\0\1", r"binary \(a zero byte at offset 6\)"),
    ],
)
def test_what_is_not_text_is_refused_with_its_place(
    tmp_path, monkeypatch, block, junk, found
) -> None:
    monkeypatch.setattr("rtdlm.data.documents._BLOCK_BYTES", block)
    path = tmp_path / "junk.txt"
    path.write_bytes(junk)
    with pytest.raises(NotTextError, match=rf"^junk\.txt is {found}; .*leave it out$"):
        texts(path)


RECORDS = ["one", "two\n\nlines", "漢字", "  "]


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_jsonl_is_a_document_a_line(tmp_path, suffix) -> None:
    path = tmp_path / f"a.jsonl{suffix}"
    data = "".join(json.dumps({"text": text, "id": 1}) + "\n" for text in RECORDS) + "\n"
    openers = {
        "": lambda: path.open("wb"),
        ".gz": lambda: gzip.GzipFile(path, "wb"),
        ".zst": lambda: pyarrow.output_stream(str(path), compression="zstd"),
    }
    with openers[suffix]() as file:
        file.write(data.encode())
    assert texts(path) == RECORDS[:3]  # Blank text is no document.


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b"{", r"is not JSON \(Expecting property name"),
        (b'"text"', r'has no string "text" \(found str\)'),
        (b'{"body": "x"}', r"""has no string "text" \(found keys \['body'\]\)"""),
        (b'{"text": 3}', r"""has no string "text" \(found keys \['text'\]\)"""),
        (b'{"text": "\xff"}', "is not UTF-8 at byte 10 of the line"),
        (b'{"text": "ab\\ud83d"}', r"holds half a surrogate pair, U\+D83D, at character 2"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, found) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "fine"}\n\n' + line + b"\n")
    with pytest.raises(UserError, match=rf"^a\.jsonl:3 {found}.*; "):
        texts(path)


def test_parquet_is_a_document_a_row(tmp_path) -> None:
    path = tmp_path / "a.parquet"
    column = pyarrow.array([*RECORDS, None] * 200)
    parquet.write_table(pyarrow.table({"id": range(len(column)), "text": column}), path)
    assert texts(path) == RECORDS[:3] * 200


def test_parquet_without_text_is_refused(tmp_path) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"body": ["x"], "text": [1]}), path)
    expected = r"^a\.parquet has no string column `text` \(its columns: body string, text int64\);"
    with pytest.raises(UserError, match=expected):
        texts(path)
    path.write_bytes(b"PAR1 no parquet")
    with pytest.raises(UserError, match=r"^a\.parquet is not readable parquet: .*; replace it$"):
        texts(path)


@pytest.mark.parametrize("name", ["a.parquet", "a.txt.zst"])
def test_a_missing_reader_is_named(tmp_path, monkeypatch, name) -> None:
    def absent(module: str) -> None:
        raise ModuleNotFoundError(module)

    monkeypatch.setattr("rtdlm.data.documents.import_module", absent)
    (tmp_path / name).write_bytes(b"x")
    expected = f"{name} needs pyarrow to be read; install it with `pip install 'rtdlm[data]'`"
    with pytest.raises(UserError, match=f"^{re.escape(expected)}$"):
        texts(tmp_path / name)


@pytest.mark.parametrize("name", ["a.txt.gz", "a.txt.zst"])
def test_damaged_compression_is_refused(tmp_path, name) -> None:
    (tmp_path / name).write_bytes(b"not compressed at all")
    with pytest.raises(UserError, match=rf"^{name} cannot be read: .*; replace it or leave it"):
        texts(tmp_path / name)


def test_a_text_larger_than_its_blocks_is_read_in_bounded_pieces(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("rtdlm.data.documents._BLOCK_BYTES", 1000)
    path = tmp_path / "long.txt"
    path.write_text("a line of text\n" * 20_000)
    source = describe(path, name="long.txt", named=True)
    read = 0
    for piece in read_pieces(source, limit=600):
        assert isinstance(piece, Piece)
        assert len(piece.text) <= 600
        read += len(piece.text)
    assert read == path.stat().st_size
