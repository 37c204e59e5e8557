from pathlib import Path

import pytest

from rtdlm.config.errors import UserError
from rtdlm.data.documents import NotTextError, read_pieces
from rtdlm.data.sources import find_sources
from rtdlm.data.survey import Survey, split_hash, survey
from tests.data.corpora import write_stories


def look(*text: Path, held_out_fraction: float = 0.1, seed: int = 0, **arguments) -> Survey:
    sources = find_sources([str(path) for path in text]).sources
    return survey(sources, held_out_fraction=held_out_fraction, seed=seed, **arguments)


def held_out(result: Survey, seed: int = 0) -> set[str]:
    texts = [
        piece.text
        for source in result.sources
        for piece in read_pieces(source, limit=result.piece_limit)
    ]
    return {text for text in texts if split_hash(text.encode(), seed=seed) < result.threshold}


def test_many_documents_are_kept_whole(tmp_path) -> None:
    result = look(write_stories(tmp_path, count=50))
    assert result.piece_limit == 1 << 18
    assert result.pieces == 50
    assert result.text_bytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert result.threshold == int(0.1 * 2**64)


def test_a_single_book_is_split_by_passages(shared_data) -> None:
    book = shared_data / "tinyshakespeare.txt"
    result = look(book, held_out_fraction=0.02)
    # 1.1 MB: 2**12 characters are the largest piece that gives 4 / 0.02 of them.
    assert (result.piece_limit, result.text_bytes) == (1 << 12, book.stat().st_size)
    share = sum(map(len, held_out(result))) / result.text_bytes
    assert 0.005 < share < 0.05


def test_the_share_is_met_over_many_documents(tmp_path) -> None:
    lines = "".join(f'{{"text": "document {number}"}}\n' for number in range(10_000))
    (tmp_path / "a.jsonl").write_text(lines)
    result = look(tmp_path / "a.jsonl", held_out_fraction=0.05)
    assert 400 < len(held_out(result)) < 600


def test_a_document_keeps_its_split_when_others_come(tmp_path) -> None:
    few = look(write_stories(tmp_path, count=50))
    many = look(write_stories(tmp_path, count=200))
    assert held_out(few) < held_out(many)
    assert held_out(few) != held_out(look(tmp_path, seed=1), seed=1)


@pytest.mark.parametrize("fraction", [1e-9, 0.5, 1 - 1e-9])
@pytest.mark.parametrize("text", ["one line\nanother line\n" * 20, "word " * 30, "ab\n" + "x" * 99])
def test_a_tiny_text_still_has_two_splits(tmp_path, text, fraction) -> None:
    (tmp_path / "a.txt").write_text(text)
    result = look(tmp_path / "a.txt", held_out_fraction=fraction)
    pieces = [piece.text for piece in read_pieces(result.sources[0], limit=result.piece_limit)]
    assert 0 < len(held_out(result)) < len(set(pieces))
    assert set(result.sample) == set(pieces) - held_out(result)


@pytest.mark.parametrize(("text", "found"), [("a", "1 bytes"), ("same\n\n" * 9 + "same", "58 byt")])
def test_too_little_text_is_refused(tmp_path, text, found) -> None:
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(UserError, match=f"too small to hold some out: its {found}"):
        look(tmp_path / "a.txt")


def test_blank_text_is_refused(tmp_path) -> None:
    (tmp_path / "a.txt").write_text(" \n\n\t")
    with pytest.raises(UserError, match="nothing but blank space; name files with text"):
        look(tmp_path / "a.txt")


def test_junk_in_a_directory_is_passed_over_without_a_trace(tmp_path) -> None:
    write_stories(tmp_path / "clean", count=50)
    write_stories(tmp_path / "mixed", count=50)
    (tmp_path / "mixed" / "logo.png").write_bytes(b"\x89PNG\r\n\0" * 9)
    # Good for longer than the first block, so that its text was counted already.
    (tmp_path / "mixed" / "late.txt").write_bytes(b"fine line\n" * 300_000 + b"\xff")
    clean, mixed = look(tmp_path / "clean"), look(tmp_path / "mixed")
    assert mixed.passed_over == {"not UTF-8 text": 2}
    assert (mixed.pieces, mixed.text_bytes) == (clean.pieces, clean.text_bytes)
    assert mixed.sample == clean.sample
    with pytest.raises(NotTextError, match=r"late\.txt is not UTF-8: byte 0xff at offset 3000000"):
        look(tmp_path / "mixed" / "late.txt")


def test_the_sample_is_bounded_even_and_from_the_train_split(tmp_path) -> None:
    write_stories(tmp_path, count=400)
    everything = look(tmp_path)
    assert len(everything.sample) == everything.pieces - len(held_out(everything))
    some = look(tmp_path, sample_bytes=20_000)
    size = sum(len(text.encode()) for text in some.sample)
    assert 5_000 < size <= 20_000
    assert set(some.sample) < set(everything.sample)
    numbers = sorted(int(text.split()[1].rstrip(",")) for text in some.sample)
    assert numbers[0] < 100
    assert numbers[-1] > 300
    assert look(tmp_path, sample_bytes=0).sample == []


def test_the_sample_is_even_over_small_and_large_sources(tmp_path) -> None:
    for name, count in (("a", 2000), ("b", 60)):
        lines = [f'{{"text": "{name} {number:05d} {"." * 90}"}}\n' for number in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    sample = look(tmp_path, sample_bytes=60_000).sample
    share = sum(text.startswith("b") for text in sample) / len(sample)
    assert 0.01 < share < 0.06  # 60 of 2060 is 0.03.


def test_progress_counts_the_text(tmp_path) -> None:
    seen: list[int] = []
    result = look(write_stories(tmp_path, count=50), progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == result.text_bytes
