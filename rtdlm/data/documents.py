"""Reads sources as documents and cuts long documents into pieces, in bounded memory.

A document is a text file, a line of `.jsonl` or a row of `.parquet`. One that is longer than a
limit is cut into pieces: before the last paragraph that starts in the second half of the limit,
else before the last line that is not blank, else before a space, else at the limit. A document of
any size is therefore read with memory for a few pieces. (A `.jsonl` line and a group of `.parquet`
rows are held whole.)
"""

import codecs
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import Any, BinaryIO, NamedTuple, cast

from rtdlm.config.errors import UserError
from rtdlm.data.sources import Source

_BLOCK_BYTES = 1 << 20
_PARQUET_ROWS = 256

_NOT_BLANK = r"(?=[^\S\r\n]*\S)"
_CUTS = (
    re.compile(r"\n[^\S\n]*\n" + _NOT_BLANK),  # Before a paragraph,
    re.compile(r"\n" + _NOT_BLANK),  # a line,
    re.compile(r"(?<=\S)(?= \S)"),  # a word.
)


class NotTextError(UserError):
    """A file is not UTF-8 text."""


class Piece(NamedTuple):
    """A document, or a part of a long one.

    Attributes:
        text: its characters.
        first: whether the document starts here.
    """

    text: str
    first: bool


def read_pieces(source: Source, *, limit: int) -> Iterator[Piece]:
    """The documents of `source` in pieces of at most `limit` characters; blank ones are left out.

    Raises:
        NotTextError: the file is binary or not UTF-8.
        UserError: a line or column is not as expected, or the file cannot be read.
    """
    try:
        for blocks in _READERS[source.kind](source):
            yield from cut(blocks, limit=limit)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(
            f"{source.name} cannot be read: {error}; replace it or leave it out"
        ) from None


def cut(blocks: Iterable[str], *, limit: int) -> Iterator[Piece]:
    """Pieces of one document that arrives in blocks; the pieces joined are the blocks joined.

    Where a cut falls depends on the text that follows the last cut, not on the blocks.
    """
    rest, first = "", True
    for block in blocks:
        rest += block
        start = 0
        while len(rest) - start > 2 * limit:
            end = start + _cut_place(rest[start : start + 2 * limit], limit)
            yield Piece(rest[start:end], first)
            start, first = end, False
        rest = rest[start:]
    while len(rest) > limit:
        end = _cut_place(rest[: 2 * limit], limit)
        yield Piece(rest[:end], first)
        rest, first = rest[end:], False
    if not first or rest.strip():
        yield Piece(rest, first)


def _cut_place(text: str, limit: int) -> int:
    """Where to cut `text`, in (limit / 2, limit]."""
    for pattern in _CUTS:
        place = 0
        for match in pattern.finditer(text):
            if match.end() > limit:
                break
            place = match.end()
        if place > limit // 2:
            return place
    return limit


def _read_text(source: Source) -> Iterator[Iterable[str]]:
    yield _text_blocks(source)


def _text_blocks(source: Source) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    read = 0
    with _open(source) as file:
        while True:
            block = file.read(_BLOCK_BYTES)
            if b"\0" in block:
                raise NotTextError(
                    f"{source.name} is binary (a zero byte at offset {read + block.index(0)}); "
                    "text must be UTF-8, so convert it or leave it out"
                )
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                waiting = len(error.object) - len(block)
                raise NotTextError(
                    f"{source.name} is not UTF-8: byte 0x{error.object[error.start]:02x} at offset "
                    f"{read - waiting + error.start}; convert it to UTF-8 or leave it out"
                ) from None
            yield text.removeprefix("\ufeff") if read == 0 else text
            read += len(block)
            if not block:
                return


def _read_jsonl(source: Source) -> Iterator[Iterable[str]]:
    with _open(source) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield [_line_text(line, f"{source.name}:{number}")]


def _line_text(line: bytes, place: str) -> str:
    expected = 'expected {"text": "..."} on each line; mend or remove the line'
    try:
        record = json.loads(line)
    except UnicodeDecodeError as error:
        reason = f"is not UTF-8 at byte {error.start} of the line"
        raise UserError(f"{place} {reason}; {expected}") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{place} is not JSON ({error.msg}); {expected}") from None
    except (ValueError, RecursionError) as error:  # a number or a nesting beyond all measure
        raise UserError(f"{place} cannot be read ({error}); {expected}") from None
    text = record.get("text") if isinstance(record, dict) else None
    if not isinstance(text, str):
        found = f"keys {sorted(record)}" if isinstance(record, dict) else type(record).__name__
        raise UserError(f'{place} has no string "text" (found {found}); {expected}')
    _check_encodable(text, place)
    return text


def _check_encodable(text: str, place: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"{place} holds half a surrogate pair, U+{ord(text[error.start]):04X}, at character "
            f"{error.start}, which is not text; mend or remove it"
        ) from None


def _read_parquet(source: Source) -> Iterator[Iterable[str]]:
    parquet = _pyarrow(source, "pyarrow.parquet")
    try:
        table = parquet.ParquetFile(source.path)
    except ValueError as error:  # ArrowInvalid is one.
        reason = " ".join(str(error).split())
        raise UserError(f"{source.name} is not readable parquet: {reason}; replace it") from None
    with table:
        columns = {field.name: str(field.type) for field in table.schema_arrow}
        if columns.get("text") not in ("string", "large_string", "string_view"):
            raise UserError(
                f"{source.name} has no string column `text` (its columns: "
                f"{', '.join(f'{name} {kind}' for name, kind in columns.items())}); rename or "
                "convert the one that holds the text"
            )
        for batch in table.iter_batches(batch_size=_PARQUET_ROWS, columns=["text"]):
            for text in batch.column(0).to_pylist():
                yield [text or ""]


def _read_topics(source: Source) -> Iterator[Iterable[str]]:
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield [topics[name]]


def _open(source: Source) -> BinaryIO:
    if source.path.suffix == ".gz":
        return cast(BinaryIO, gzip.open(source.path, "rb"))
    if source.path.suffix == ".zst":
        stream = _pyarrow(source, "pyarrow").input_stream(str(source.path), compression="zstd")
        return io.BufferedReader(stream, _BLOCK_BYTES)
    return source.path.open("rb")


def _pyarrow(source: Source, module: str) -> Any:
    try:
        return import_module(module)
    except ModuleNotFoundError:
        raise UserError(
            f"{source.name} needs pyarrow to be read; install it with `pip install 'rtdlm[data]'`"
        ) from None


_READERS = {
    "text": _read_text,
    "jsonl": _read_jsonl,
    "parquet": _read_parquet,
    "topics": _read_topics,
}
