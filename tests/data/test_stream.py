import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtdlm.config.errors import UserError
from rtdlm.data import read_manifest, stream
from rtdlm.data.packing import pack
from rtdlm.data.shards import Tensor, open_stream
from rtdlm.data.stream import StreamWindows, TokenStream
from tests.data.corpora import write_prepared

DOC = 0


@pytest.fixture(scope="module")
def tensors(tmp_path_factory) -> list[Tensor]:
    """103 distinct ids in four shards, one of them empty."""
    ids = np.arange(103)
    parts = [ids[:40], ids[40:41], ids[41:41], ids[41:]]
    root = write_prepared(
        tmp_path_factory.mktemp("stream") / "out",
        {"train": parts, "heldout": [ids]},
        vocab_size=103,
        document_id=DOC,
    )
    return open_stream(root, read_manifest(root), "train")


@given(start=st.integers(0, 250), count=st.integers(1, 300))
def test_reading_goes_around_the_ring(tensors, start: int, count: int) -> None:
    ids = TokenStream(tensors, vocab_size=103).read(start, count)
    assert ids.dtype == np.int32
    np.testing.assert_array_equal(ids, [(start + i) % 103 for i in range(count)])


@pytest.mark.parametrize("seq_len", [1, 7, 34, 103, 200])
@pytest.mark.parametrize("shift", [0, 5])
def test_a_pass_has_every_token_once_as_input_and_once_as_label(tensors, seq_len, shift) -> None:
    windows = StreamWindows(TokenStream(tensors, vocab_size=103), seq_len=seq_len, document_id=DOC)
    assert windows.num_windows == int(np.ceil(103 / seq_len))
    assert windows.num_tokens == 103
    batch = windows.rows(np.arange(windows.num_windows), shift=shift % seq_len)
    real = batch.weights == 1
    assert sorted(batch.input_ids[real]) == sorted(batch.labels[real]) == list(range(103))
    np.testing.assert_array_equal(batch.labels[real], (batch.input_ids[real] + 1) % 103)
    assert batch.input_ids[0, 0] == shift % seq_len
    assert not any(array[~real].any() for array in batch)


def test_rows_are_the_packed_windows(tensors) -> None:
    windows = StreamWindows(TokenStream(tensors, vocab_size=103), seq_len=10, document_id=DOC)
    batch = windows.rows(np.array([10, 0, 3]), shift=2)
    ids = np.array([[(10 * w + 2 + i) % 103 for i in range(11)] for w in (10, 0, 3)], np.int32)
    expected = pack(ids, lengths=np.array([3, 10, 10]), document_id=DOC)
    for found, wanted in zip(batch, expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("checked_tokens", [0, 1 << 25], ids=["when read", "when opened"])
def test_an_id_beyond_the_vocabulary_is_refused(tensors, monkeypatch, checked_tokens) -> None:
    monkeypatch.setattr(stream, "_CHECKED_TOKENS", checked_tokens)
    expected = (
        r"^shard .*train-00003\.safetensors holds id 100 at 59 of `input_ids`, but the vocabulary "
        r"has 100 ids from 0 on; use "
    )
    with pytest.raises(UserError, match=expected):
        TokenStream(tensors, vocab_size=100).read(90, 13)


def test_a_large_stream_is_not_read_when_it_is_opened(tensors, monkeypatch) -> None:
    monkeypatch.setattr(stream, "_CHECKED_TOKENS", 102)
    ring = TokenStream(tensors, vocab_size=100)
    assert ring.read(0, 5).tolist() == [0, 1, 2, 3, 4]
