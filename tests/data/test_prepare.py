import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from rtdlm.config.errors import StorageError, UserError
from rtdlm.data import (
    Loader,
    Manifest,
    PrepareProgress,
    Tokenizer,
    byte_tokenizer,
    read_manifest,
    train_bpe,
    verify_shards,
)
from rtdlm.data.manifest import SPLITS, Split
from rtdlm.data.shards import open_stream
from rtdlm.disk import LOCK_FILE
from tests.data.corpora import DOCUMENT, begun_by, content, prepare_bytes, write_stories


def stream(directory: Path, split: Split) -> np.ndarray:
    tensors = open_stream(directory, read_manifest(directory), split)
    return np.concatenate([tensor.map() for tensor in tensors])


def documents(directory: Path, split: Split) -> list[str]:
    """The texts of a split of byte tokens."""
    ids = stream(directory, split)
    assert ids[0] == DOCUMENT
    parts = np.split(ids, np.flatnonzero(ids == DOCUMENT)[1:])
    return [bytes(part[1:].astype(np.uint8)).decode() for part in parts]


def modification_times(directory: Path) -> dict[Path, int]:
    """Of all but the lock, in which every writer leaves its name."""
    files = (path for path in directory.iterdir() if path.name != LOCK_FILE)
    return {path: path.stat().st_mtime_ns for path in files}


@pytest.fixture
def stories(tmp_path) -> Path:
    return write_stories(tmp_path / "stories")


def test_every_document_is_in_one_split_in_order(tmp_path, stories) -> None:
    manifest = prepare_bytes([stories], tmp_path / "out")
    texts = [path.read_text() for path in sorted(stories.iterdir())]
    found = {split: documents(tmp_path / "out", split) for split in SPLITS}
    assert sorted(found["train"] + found["heldout"]) == sorted(texts)
    for split in SPLITS:
        assert found[split] == [text for text in texts if text in found[split]]
        totals = manifest.totals[split]
        assert totals.documents == len(found[split])
        assert totals.text_bytes == sum(len(text.encode()) for text in found[split])
        assert totals.tokens == totals.text_bytes + totals.documents
    assert 0 < len(found["heldout"]) < 30


def test_documents_that_begin_and_end_with_tokens_of_their_own(tmp_path, stories) -> None:
    start, end = 256, 257
    tokenizer = begun_by("<s>")
    whole = prepare_bytes([stories], tmp_path / "whole", tokenizer=tokenizer)
    texts = [path.read_bytes() for path in sorted(stories.iterdir())]
    for split in SPLITS:
        ids = stream(tmp_path / "whole", split)
        parts = np.split(ids, np.flatnonzero(ids == end)[1:])
        assert all(part[:2].tolist() == [end, start] for part in parts)
        found = [part[2:].astype(np.uint8).tobytes() for part in parts]
        assert found == [text for text in texts if text in found]
        assert (ids == start).sum() == len(found) == whole.totals[split].documents
        assert len(ids) == whole.totals[split].tokens
    assert whole.document_id == start
    batch = Loader([tmp_path / "whole"], seq_len=700, batch_size=8, seed=0).batch(0)
    starts, ends = batch.input_ids == start, batch.input_ids == end
    assert starts.sum() > 8
    assert (batch.positions[starts] == 0).all() and (batch.labels[ends] == start).all()
    last = np.flatnonzero((batch.input_ids == end)[0])[-1]
    assert batch.segment_ids[0, last] == batch.segment_ids[0, last - 1]


def test_a_book_is_cut_only_where_text_is_held_out(tmp_path) -> None:
    book = "".join(f"Line {n} of the book.\n" + "\n" * (n % 5 == 0) for n in range(5000))
    (tmp_path / "book.txt").write_text(book)
    manifest = prepare_bytes([tmp_path / "book.txt"], tmp_path / "out", held_out_fraction=0.1)
    train, held_out = (documents(tmp_path / "out", split) for split in SPLITS)
    assert len(held_out) > 1
    assert manifest.totals["train"].documents <= len(held_out) + 1
    rebuilt = ""
    while len(rebuilt) < len(book):  # Each next document is where the book goes on.
        source = train if train and book.startswith(train[0], len(rebuilt)) else held_out
        rebuilt += source.pop(0)
    assert (rebuilt, train, held_out) == (book, [], [])


def test_manifest_and_directory_agree(tmp_path, stories) -> None:
    manifest = prepare_bytes([stories], tmp_path / "out")
    out = tmp_path / "out"
    assert sorted(content(out)) == [
        "heldout-00000.safetensors", "manifest.json", "plan.json", "tokenizer.json",
        "train-00000.safetensors",
    ]  # fmt: skip
    assert verify_shards(out) == read_manifest(out) == manifest
    assert (manifest.vocab_size, manifest.document_id, manifest.dtype) == (257, 256, "uint16")
    assert (manifest.files, manifest.tokenizer, manifest.text) == (60, "byte", (str(stories),))
    assert manifest.tokenizer_sha256 == Tokenizer.load(out).hash


def test_many_shards_hold_the_same_stream(tmp_path, stories, monkeypatch) -> None:
    whole = prepare_bytes([stories], tmp_path / "whole")
    monkeypatch.setattr("rtdlm.data.encode._BATCH_CHARACTERS", 1000)
    cut = prepare_bytes([stories], tmp_path / "cut", shard_tokens=4000)
    assert len(whole.of("train")) == 1
    assert len(cut.of("train")) == 4
    assert [shard.file for shard in cut.of("heldout")][:2] == [
        "heldout-00000.safetensors", "heldout-00001.safetensors",
    ]  # fmt: skip
    assert cut.totals == whole.totals
    for split in SPLITS:
        np.testing.assert_array_equal(
            stream(tmp_path / "cut", split), stream(tmp_path / "whole", split)
        )


def test_a_bpe_is_trained_and_a_large_vocabulary_takes_more_bytes(tmp_path, stories) -> None:
    trained = prepare_bytes([stories], tmp_path / "bpe", tokenizer="bpe", vocab_size=300)
    assert (trained.vocab_size, trained.dtype) == (300, "uint16")
    words = json.loads((tmp_path / "bpe" / "tokenizer.json").read_bytes())
    words["model"]["vocab"] |= {f"unused {number}": number for number in range(300, 70_000)}
    (tmp_path / "theirs.json").write_text(json.dumps(words))
    theirs = prepare_bytes(
        [stories], tmp_path / "theirs", tokenizer=str(tmp_path / "theirs.json"), vocab_size=80_000
    )
    assert theirs.dtype == "uint32"
    np.testing.assert_array_equal(stream(tmp_path / "theirs", "train"),
                                  stream(tmp_path / "bpe", "train"))  # fmt: skip


def test_a_second_call_returns_at_once(tmp_path, stories) -> None:
    events: list[PrepareProgress] = []
    first = prepare_bytes([stories], tmp_path / "out", progress=events.append)
    times = modification_times(tmp_path / "out")
    count = len(events)
    assert prepare_bytes([stories], tmp_path / "out", progress=events.append) == first
    assert modification_times(tmp_path / "out") == times
    assert len(events) == count


def test_progress_goes_through_its_stages(tmp_path, stories) -> None:
    events: list[PrepareProgress] = []
    manifest = prepare_bytes([stories], tmp_path / "out", tokenizer="bpe", progress=events.append)
    stages = list(dict.fromkeys(event.stage for event in events))
    assert stages == ["read", "tokenizer", "encode"]
    assert all(0 <= event.done <= event.total for event in events)
    totals = manifest.totals.values()
    assert events[-1] == PrepareProgress(
        "encode",
        done=sum(t.text_bytes for t in totals),
        total=sum(t.text_bytes for t in totals),
        tokens=sum(t.tokens for t in totals),
    )


def test_touched_text_is_the_same_text(tmp_path, stories) -> None:
    first = prepare_bytes([stories], tmp_path / "out")
    os.utime(stories / "story-000.txt", ns=(1, 1))
    assert prepare_bytes([stories], tmp_path / "out") == first


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda path: path.write_text("Short."), r"story-000\.txt has other content"),
        (lambda path: path.write_text(path.read_text().replace("fox", "cat")), "other content"),
        (lambda path: path.unlink(), r"story-000\.txt is gone"),
        (lambda path: (path.parent / "zz.txt").write_text("new"), r"zz\.txt is new"),
    ],
    ids=["size", "content", "gone", "new"],
)
def test_changed_text_is_refused(tmp_path, stories, change, found) -> None:
    prepare_bytes([stories], tmp_path / "out")
    before = content(tmp_path / "out")
    change(stories / "story-000.txt")
    expected = f"the text changed since .* was prepared from it: .*{found}; remove .* or choose"
    with pytest.raises(UserError, match=expected):
        prepare_bytes([stories], tmp_path / "out")
    assert content(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ({"held_out_fraction": 0.3}, r"held_out_fraction=0\.2, not 0\.3"),
        ({"seed": 4}, "seed=0, not 4"),
        ({"tokenizer": "bpe"}, "tokenizer='byte', not 'bpe'"),
        ({"shard_tokens": 5}, "shard_tokens=33554432, not 5"),
    ],
)
def test_other_arguments_are_refused(tmp_path, stories, arguments, found) -> None:
    prepare_bytes([stories], tmp_path / "out")
    with pytest.raises(UserError, match=rf"^.*/out was prepared with {found}; use the same"):
        prepare_bytes([stories], tmp_path / "out", **arguments)


def test_another_tokenizer_under_the_same_name_is_refused(tmp_path, stories) -> None:
    path = tmp_path / "tokenizer.json"
    byte_tokenizer().save(tmp_path)
    prepare_bytes([stories], tmp_path / "out", tokenizer=str(path))
    train_bpe(["some other words"], 300).save(tmp_path)
    with pytest.raises(UserError, match="prepared with another tokenizer than .* holds now"):
        prepare_bytes([stories], tmp_path / "out", tokenizer=str(path))


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ({"vocab_size": 256}, "vocab_size=256 is too small for a byte tokenizer: .* at least 257"),
        ({"tokenizer": "bpe", "vocab_size": 9}, "vocab_size=9 is too small for a bpe tokenizer"),
        ({"tokenizer": "none.json"}, r"^tokenizer none\.json cannot be read"),
        ({"held_out_fraction": 0.0}, r"held_out_fraction=0\.0 is outside \(0, 1\)"),
        ({"held_out_fraction": 1.0}, r"held_out_fraction=1\.0 is outside \(0, 1\)"),
        ({"shard_tokens": 0}, "shard_tokens=0 must be at least 1"),
    ],
)
def test_arguments_out_of_range_are_refused(tmp_path, stories, arguments, found) -> None:
    with pytest.raises(UserError, match=found):
        prepare_bytes([stories], tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_larger_than_the_vocabulary_is_refused(tmp_path, stories) -> None:
    train_bpe([path.read_text() for path in stories.iterdir()], 300).save(tmp_path)
    path = tmp_path / "tokenizer.json"
    expected = f"tokenizer {re.escape(str(path))} has 300 tokens, more than vocab_size=299; set"
    with pytest.raises(UserError, match=expected):
        prepare_bytes([stories], tmp_path / "out", tokenizer=str(path), vocab_size=299)


@pytest.mark.parametrize("text", [b"junk \0", b"\xff", b" \n", b"a"])
def test_refused_text_leaves_no_directory(tmp_path, text) -> None:
    (tmp_path / "a.txt").write_bytes(text)
    with pytest.raises(UserError):
        prepare_bytes([tmp_path / "a.txt"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_shards_of_others_are_not_overwritten(tmp_path, stories) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.safetensors").write_bytes(b"precious")
    with pytest.raises(UserError, match=r"already holds model\.safetensors, which `prepare` did"):
        prepare_bytes([stories], tmp_path / "out")
    assert content(tmp_path / "out") == {"model.safetensors": b"precious"}


def test_the_output_may_lie_in_the_text(tmp_path, stories) -> None:
    first = prepare_bytes([stories], stories / "shards")
    assert first.files == 60
    assert prepare_bytes([stories], stories / "shards") == first


def test_junk_is_counted_in_the_manifest(tmp_path, stories) -> None:
    (stories / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0\0")
    (stories / ".notes").write_text("hidden")
    manifest = prepare_bytes([stories], tmp_path / "out")
    assert manifest.passed_over == {"hidden": 1, "not UTF-8 text": 1}
    assert manifest.files == 60
    assert prepare_bytes([stories], tmp_path / "out") == manifest
    (stories / "photo.jpg").write_bytes(b"now it is text")
    with pytest.raises(UserError, match=r"photo\.jpg has other content"):
        prepare_bytes([stories], tmp_path / "out")


def test_text_that_changes_under_way_is_refused(tmp_path, stories) -> None:
    def change(event: PrepareProgress) -> None:
        if event.stage == "tokenizer":
            (stories / "story-050.txt").write_text("Meanwhile, the log grew.")

    with pytest.raises(UserError, match=r"story-050\.txt changed while it was being prepared"):
        prepare_bytes([stories], tmp_path / "out", tokenizer="bpe", progress=change)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_full_disk_is_told_and_mended(tmp_path, stories, monkeypatch) -> None:
    expected = prepare_bytes([stories], tmp_path / "expected")
    real, calls = os.fsync, []

    def full_later(handle: int) -> None:
        calls.append(handle)
        if len(calls) == 4:
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full_later)
    with pytest.raises(StorageError, match=r" could not be written: No space left on device; "):
        prepare_bytes([stories], tmp_path / "out")
    assert prepare_bytes([stories], tmp_path / "out") == expected
    assert content(tmp_path / "out") == content(tmp_path / "expected")


def test_a_damaged_finished_directory_is_not_called_finished(tmp_path, stories) -> None:
    manifest: Manifest = prepare_bytes([stories], tmp_path / "out")
    shard = tmp_path / "out" / manifest.shards[0].file
    shard.write_bytes(shard.read_bytes()[:-2])
    with pytest.raises(UserError, match="is damaged or truncated"):
        prepare_bytes([stories], tmp_path / "out")


def test_a_tokenizer_that_is_here_is_used_and_known_by_its_hash(tmp_path, stories) -> None:
    given, out = byte_tokenizer(), tmp_path / "given"
    manifest = prepare_bytes([stories], out, tokenizer=given)
    named = prepare_bytes([stories], tmp_path / "named")
    assert (manifest.tokenizer, named.tokenizer) == (given.hash, "byte")
    assert manifest.shards == named.shards
    assert prepare_bytes([stories], out, tokenizer=given) == manifest
    other = train_bpe(["some other text"], 300)
    with pytest.raises(UserError, match=rf"was prepared with tokenizer='{given.hash}', not"):
        prepare_bytes([stories], out, tokenizer=other)
    with pytest.raises(UserError, match="^tokenizer that was given has 257 tokens, more than voc"):
        prepare_bytes([stories], tmp_path / "small", tokenizer=given, vocab_size=256)
