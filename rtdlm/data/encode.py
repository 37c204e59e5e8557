"""The second pass over a corpus: pieces of text become shards of ids, chunk by chunk.

A *chunk* is as much text as makes `shard_tokens` ids. It ends as one shard of the train split, one
of the held-out split, and a line in `journal.json` that says where in the text the next chunk
begins. A run that was killed goes on behind the last chunk of the journal. Where chunks end
depends on the text alone, so that the shards are the same bytes however often it was killed.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from rtdlm.config.errors import UserError
from rtdlm.data.documents import Piece, read_pieces
from rtdlm.data.manifest import SPLITS, ShardEntry, Split, Totals, read_json, write_json
from rtdlm.data.shards import write_shard
from rtdlm.data.sources import Source, describe
from rtdlm.data.survey import split_hash
from rtdlm.data.tokenizer import Tokenizer

JOURNAL_FILE = "journal.json"

# What is handed to the tokenizer at once; enough to keep many cores busy.
_BATCH_CHARACTERS = 1 << 21
_BATCH_PIECES = 4096


@dataclass(frozen=True)
class Position:
    """A place in the text: the next piece to read.

    Attributes:
        source: index of its source.
        piece: its index in the source.
        open_split: split that holds the piece before it, which it follows without a boundary if it
            is of the same document and split.
    """

    source: int
    piece: int
    open_split: Split | None


@dataclass(frozen=True)
class Chunk:
    """A finished chunk: its shards, the bytes of text in each split, and where the next begins."""

    shards: tuple[ShardEntry, ...]
    text_bytes: Mapping[Split, int]
    end: Position


def encode_corpus(
    sources: Sequence[Source],
    *,
    tokenizer: Tokenizer,
    directory: Path,
    piece_limit: int,
    threshold: int,
    seed: int,
    shard_tokens: int,
    progress: Callable[[int, int], None],
) -> list[Chunk]:
    """Writes the shards that `directory` still lacks; returns all chunks.

    `progress` is called now and then with the text bytes and tokens that are done.
    """
    chunks = read_journal(directory)
    start = chunks[-1].end if chunks else Position(0, 0, None)
    writer = _Writer(tokenizer, threshold, seed, start.open_split)
    source, piece = start.source, start.piece
    for pieces, source, piece in _batches(sources, piece_limit, start):
        writer.add(pieces)
        done = totals(chunks).values()
        progress(
            sum(split.text_bytes for split in done) + sum(writer.text_bytes().values()),
            sum(split.tokens for split in done) + writer.tokens,
        )
        if writer.tokens >= shard_tokens:
            _finish_chunk(directory, chunks, writer, source, piece)
    if writer.tokens:
        _finish_chunk(directory, chunks, writer, source, piece)
    return chunks


def _finish_chunk(
    directory: Path, chunks: list[Chunk], writer: "_Writer", source: int, piece: int
) -> None:
    """Writes the shards of a chunk, then the journal that counts them as done."""
    shards = tuple(writer.write(directory, chunks))
    end = Position(source, piece, writer.open_split)
    chunks.append(Chunk(shards, writer.text_bytes(), end))
    write_json(directory / JOURNAL_FILE, {"chunks": [asdict(chunk) for chunk in chunks]})
    writer.clear()


def totals(chunks: Sequence[Chunk]) -> dict[str, Totals]:
    """Sums of each split over all chunks."""
    return {
        split: Totals(
            tokens=sum(shard.tokens for shard in _shards(chunks, split)),
            documents=sum(shard.documents for shard in _shards(chunks, split)),
            text_bytes=sum(chunk.text_bytes[split] for chunk in chunks),
        )
        for split in SPLITS
    }


def read_journal(directory: Path) -> list[Chunk]:
    """The finished chunks of a directory, up to the first whose shards are not all there."""
    path = directory / JOURNAL_FILE
    chunks: list[Chunk] = []
    if not path.exists():
        return chunks
    for tree in read_json(path)["chunks"]:
        shards = tuple(ShardEntry(**entry) for entry in tree["shards"])
        for shard in shards:
            file = directory / shard.file
            if not file.is_file() or file.stat().st_size != shard.size:
                return chunks
        chunks.append(Chunk(shards, tree["text_bytes"], Position(**tree["end"])))
    return chunks


def _shards(chunks: Sequence[Chunk], split: Split) -> Iterator[ShardEntry]:
    return (shard for chunk in chunks for shard in chunk.shards if shard.split == split)


def _batches(
    sources: Sequence[Source], limit: int, start: Position
) -> Iterator[tuple[list[Piece], int, int]]:
    """Pieces from `start` on, in batches, each with the place (source, piece) that follows it."""
    batch: list[Piece] = []
    characters = 0
    source_index, piece_index = start.source, start.piece
    for source_index in range(start.source, len(sources)):
        skip = start.piece if source_index == start.source else 0
        piece_index = 0
        for piece_index, piece in enumerate(_unchanged(sources[source_index], limit), start=1):
            if piece_index <= skip:
                continue
            batch.append(piece)
            characters += len(piece.text)
            if characters >= _BATCH_CHARACTERS or len(batch) >= _BATCH_PIECES:
                yield batch, source_index, piece_index
                batch, characters = [], 0
    if batch:
        yield batch, source_index, piece_index


def _unchanged(source: Source, limit: int) -> Iterator[Piece]:
    """The pieces of a source, refusing one that changed after it was planned."""
    yield from read_pieces(source, limit=limit)
    now = describe(source.path, name=source.name, named=source.named)
    if (now.size, now.mtime_ns) != (source.size, source.mtime_ns):
        raise UserError(f"{source.name} changed while it was being prepared; prepare it anew")


@dataclass
class _Stream:
    """One split of the chunk in the making."""

    ids: list[np.ndarray] = field(default_factory=list)
    documents: int = 0
    text_bytes: int = 0


class _Writer:
    """Collects the two splits of a chunk and writes them."""

    def __init__(
        self, tokenizer: Tokenizer, threshold: int, seed: int, open_split: Split | None
    ) -> None:
        self._tokenizer = tokenizer
        self._threshold = threshold
        self._seed = seed
        self._dtype = shard_dtype(tokenizer.vocab_size)
        self._boundary = np.array(tokenizer.boundary_ids, self._dtype)
        self.open_split = open_split
        self.clear()

    def clear(self) -> None:
        self._streams: dict[Split, _Stream] = {split: _Stream() for split in SPLITS}
        self.tokens = 0

    def add(self, pieces: Sequence[Piece]) -> None:
        encoded = self._tokenizer.encode_batch([piece.text for piece in pieces])
        for piece, ids in zip(pieces, encoded, strict=True):
            self._add_piece(piece, ids.astype(self._dtype))

    def _add_piece(self, piece: Piece, ids: np.ndarray) -> None:
        text = piece.text.encode("utf-8")
        held_out = split_hash(text, seed=self._seed) < self._threshold
        split: Split = "heldout" if held_out else "train"
        stream = self._streams[split]
        if piece.first or self.open_split != split:
            stream.ids.append(self._boundary)
            stream.documents += 1
            self.tokens += len(self._boundary)
        stream.ids.append(ids)
        stream.text_bytes += len(text)
        self.tokens += len(ids)
        self.open_split = split

    def text_bytes(self) -> dict[Split, int]:
        return {split: stream.text_bytes for split, stream in self._streams.items()}

    def write(self, directory: Path, chunks: Sequence[Chunk]) -> Iterator[ShardEntry]:
        for split, stream in self._streams.items():
            if stream.ids:
                number = sum(1 for _ in _shards(chunks, split))
                path = directory / f"{split}-{number:05d}.safetensors"
                ids = np.concatenate(stream.ids)
                yield write_shard(path, ids, split=split, documents=stream.documents)


def shard_dtype(vocab_size: int) -> np.dtype:
    """The smallest type that shards use for ids below `vocab_size`: uint16 or uint32."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)
