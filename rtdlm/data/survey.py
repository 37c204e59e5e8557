"""The first pass over a corpus: is it readable, how is it cut and split, what trains its tokenizer?

Split. A piece of text is held out if a hash of its content, salted with the seed, falls below a
threshold that stands for the held-out share. So a document stays in its split when others come or
go, and copies of it share its split. If none falls below, the piece with the lowest hash is held
out.

Cut. A *piece* is a whole document where that leaves enough of them: documents are cut at 2^18
characters, or at a quarter of that, and so on down to 2^10, until at least four pieces can be
expected in the held-out split. A library of files is split by file, a single book by passages.
(Text that still is one piece goes down further, to 2^6.) Neighbouring pieces of one document in
the same split follow each other as though they were never cut.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from rtdlm.config.errors import UserError
from rtdlm.data.documents import NotTextError, read_pieces
from rtdlm.data.sources import Source

LARGEST_PIECE = 1 << 18  # [characters]
SMALL_PIECE = 1 << 10
SMALLEST_PIECE = 1 << 6
EXPECTED_HELD_OUT = 4  # [pieces]
TOKENIZER_SAMPLE_BYTES = 12_000_000

_HASHES = 1 << 64
_REPORT_BYTES = 1 << 22


@dataclass(frozen=True)
class Survey:
    """What a pass over all text found.

    Attributes:
        sources: those that hold text.
        passed_over: how many were dropped, by reason.
        piece_limit: where documents are cut [characters].
        threshold: a piece is held out if `split_hash` of its text is below this, in (0, 2^64].
        pieces: how many there are.
        text_bytes: of all documents, in UTF-8 [bytes].
        sample: texts of the train split to train a tokenizer on.
    """

    sources: tuple[Source, ...]
    passed_over: Counter[str]
    piece_limit: int
    threshold: int
    pieces: int
    text_bytes: int
    sample: list[str]


def split_hash(text: bytes, *, seed: int) -> int:
    """The number in [0, 2^64) that decides a piece's split."""
    return int.from_bytes(_digest(text, seed)[:8], "big")


def survey(
    sources: Sequence[Source],
    *,
    held_out_fraction: float,
    seed: int,
    sample_bytes: int = TOKENIZER_SAMPLE_BYTES,
    progress: Callable[[int], None] = lambda _: None,
) -> Survey:
    """Reads all sources and decides the cut and the split.

    Args:
        sources: the files to read.
        held_out_fraction: share of the pieces to hold out, in (0, 1).
        seed: salt of the split and of the sample.
        sample_bytes: most text kept for the tokenizer [bytes]; 0 keeps none.
        progress: called now and then with the bytes of text read so far in this pass.

    Raises:
        UserError: a named file is not text, or there is too little text for two splits.
    """
    limit = LARGEST_PIECE
    scan = _scan_all(sources, limit, seed, sample_bytes, progress)
    while limit > SMALLEST_PIECE and (
        scan.pieces < 2
        or (limit > SMALL_PIECE and scan.pieces * held_out_fraction < EXPECTED_HELD_OUT)
    ):
        limit //= 4
        scan = _scan_all(sources, limit, seed, sample_bytes, progress)
    threshold = _threshold(scan, held_out_fraction)
    sample = [text for key, text in scan.sample.items if split_hash(text, seed=seed) >= threshold]
    return Survey(
        sources=tuple(scan.sources),
        passed_over=scan.passed_over,
        piece_limit=limit,
        threshold=threshold,
        pieces=scan.pieces,
        text_bytes=scan.text_bytes,
        sample=[text.decode("utf-8") for text in sample],
    )


def _threshold(scan: "_Scan", held_out_fraction: float) -> int:
    if scan.pieces == 0:
        raise UserError("the text holds nothing but blank space; name files with text")
    if scan.lowest == scan.highest:
        raise UserError(
            f"the text is too small to hold some out: its {scan.text_bytes} bytes make one piece, "
            f"found {scan.pieces} time(s); give at least two different lines, better a megabyte"
        )
    threshold = int(held_out_fraction * _HASHES)
    if scan.lowest >= threshold:
        return scan.lowest + 1
    return min(threshold, scan.highest)


class _Sample:
    """Texts drawn evenly from a stream of any length: those with the lowest sampling keys.

    The key is a hash of the text, so that the same stream gives the same sample.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.items: list[tuple[int, bytes]] = []
        self._limit = limit_bytes
        self._bound = _HASHES if limit_bytes else 0  # Keys below this are kept.
        self._bytes = 0

    def add(self, key: int, text: bytes) -> None:
        if key < self._bound:
            self.items.append((key, text))
            self._bytes += len(text)
        while self._bytes > self._limit:
            self._lower(self._bound // 2)

    def merge(self, other: "_Sample") -> None:
        self._lower(min(self._bound, other._bound))
        for key, text in other.items:
            self.add(key, text)

    def _lower(self, bound: int) -> None:
        """Keeps exactly the keys below `bound`, whatever order they came in."""
        self._bound = bound
        self.items = [item for item in self.items if item[0] < bound]
        self._bytes = sum(len(text) for _, text in self.items)


@dataclass
class _Scan:
    """Running results over sources; one source's are merged only if all of it is text."""

    sample: _Sample
    sources: list[Source] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)
    pieces: int = 0
    text_bytes: int = 0
    lowest: int = _HASHES
    highest: int = -1

    def add(self, text: bytes, seed: int) -> None:
        digest = _digest(text, seed)
        split = int.from_bytes(digest[:8], "big")
        self.pieces += 1
        self.text_bytes += len(text)
        self.lowest, self.highest = min(self.lowest, split), max(self.highest, split)
        self.sample.add(int.from_bytes(digest[8:], "big"), text)

    def merge(self, other: "_Scan") -> None:
        self.sources += other.sources
        self.pieces += other.pieces
        self.text_bytes += other.text_bytes
        self.lowest = min(self.lowest, other.lowest)
        self.highest = max(self.highest, other.highest)
        self.sample.merge(other.sample)


def _scan_all(
    sources: Sequence[Source],
    limit: int,
    seed: int,
    sample_bytes: int,
    progress: Callable[[int], None],
) -> _Scan:
    total = _Scan(_Sample(sample_bytes))
    for source in sources:
        part = _Scan(_Sample(sample_bytes), sources=[source])
        reported = 0
        try:
            for piece in read_pieces(source, limit=limit):
                part.add(piece.text.encode("utf-8"), seed)
                if part.text_bytes - reported >= _REPORT_BYTES:
                    reported = part.text_bytes
                    progress(total.text_bytes + reported)
        except NotTextError:
            if source.named:
                raise
            total.passed_over["not UTF-8 text"] += 1
            continue
        total.merge(part)
        progress(total.text_bytes)
    return total


def _digest(text: bytes, seed: int) -> bytes:
    return blake2b(text, digest_size=16, key=seed.to_bytes(8, "little", signed=True)).digest()
