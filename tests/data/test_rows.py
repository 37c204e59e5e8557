import numpy as np
import pytest

from rtdlm.config.errors import UserError
from rtdlm.data import Batch
from rtdlm.data.manifest import SPLITS
from rtdlm.data.rows import RowFile, RowWindows, open_rows
from tests.data.corpora import write_rows


def all_rows(files: list[RowFile], seq_len: int, vocab_size: int = 1000) -> Batch:
    windows = RowWindows(files, seq_len=seq_len, vocab_size=vocab_size)
    return windows.rows(np.arange(windows.num_windows), shift=0)


def test_a_masked_row_by_hand(tmp_path) -> None:
    path = write_rows(
        tmp_path / "a.safetensors",
        np.array([[0, 11, 12, 13, 14, 15, 0]]),
        attention_mask=np.array([[0, 1, 1, 1, 1, 1, 0]]),
        labels=np.array([[-100, 11, -100, 13, 14, -100, -100]], np.int32),
    )
    batch = all_rows([RowFile(path)], 8)
    assert batch.input_ids.tolist() == [[0, 11, 12, 13, 14, 15, 0, 0]]
    assert batch.labels.tolist() == [[0, 0, 13, 14, 0, 0, 0, 0]]
    assert batch.weights.tolist() == [[0, 0, 1, 1, 0, 0, 0, 0]]
    assert batch.segment_ids.tolist() == [[0, 1, 1, 1, 1, 1, 0, 0]]
    assert batch.positions.tolist() == [[0, 0, 1, 2, 3, 4, 0, 0]]
    assert [array.dtype for array in batch] == [np.int32] * 4 + [np.float32]


def test_padding_is_neither_read_nor_predicted_without_labels(tmp_path) -> None:
    path = write_rows(
        tmp_path / "a.safetensors",
        np.array([[7, 7, 11, 12, 13], [11, 12, 13, 7, 7]]),
        attention_mask=np.array([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0]], bool),
    )
    batch = all_rows([RowFile(path)], 4)
    assert batch.input_ids.tolist() == [[0, 0, 11, 12], [11, 12, 13, 0]]
    assert batch.labels.tolist() == [[0, 0, 12, 13], [12, 13, 0, 0]]
    assert batch.weights.tolist() == [[0, 0, 1, 1], [1, 1, 0, 0]]
    assert batch.segment_ids.tolist() == [[0, 0, 1, 1], [1, 1, 1, 0]]
    assert batch.positions.tolist() == [[0, 0, 0, 1], [0, 1, 2, 0]]


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "uint32", "int64"])
@pytest.mark.parametrize("seq_len", [3, 4, 9, 20])
def test_rows_are_cut_and_shifted_once(tmp_path, dtype, seq_len) -> None:
    ids = np.random.default_rng(0).integers(1, 120, (4, 10)).astype(dtype)
    path = write_rows(tmp_path / "a.safetensors", ids)
    batch = all_rows([RowFile(path)], seq_len)
    expected = []
    for row in ids.tolist():
        for start in range(0, 9, seq_len):
            part = row[start : min(start + seq_len, 9) + 1]
            padding = [0] * (seq_len - len(part) + 1)
            inputs, labels = part[:-1] + padding, part[1:] + padding
            ones = [1] * (len(part) - 1) + padding
            expected.append((inputs, labels, ones, list(range(len(part) - 1)) + padding, ones))
    for found, wanted in zip(batch, zip(*expected, strict=True), strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert batch.weights.sum() == 4 * 9


def test_files_named_so_are_the_held_out_split(tmp_path) -> None:
    for name in ("train-0", "train-1", "heldout-0", "validation-0"):
        write_rows(tmp_path / f"{name}.safetensors", np.ones((2, 4), np.int32))
    names = {
        split: [f.path.stem for f in open_rows(tmp_path, split, held_out_fraction=0.5)]
        for split in SPLITS
    }
    assert names == {"train": ["train-0", "train-1"], "heldout": ["heldout-0", "validation-0"]}


def test_else_rows_are_held_out_by_hash(tmp_path) -> None:
    for name in ("a", "b"):
        write_rows(tmp_path / f"{name}.safetensors", np.ones((2000, 4), np.int32))
    chosen = {
        split: [file.rows for file in open_rows(tmp_path, split, held_out_fraction=0.1)]
        for split in SPLITS
    }
    for train, held_out in zip(chosen["train"], chosen["heldout"], strict=True):
        np.testing.assert_array_equal(np.sort(np.concatenate([train, held_out])), np.arange(2000))
        assert 140 < len(held_out) < 260
    assert chosen["heldout"][0].tolist() != chosen["heldout"][1].tolist()


@pytest.mark.parametrize("fraction", [1e-6, 1 - 1e-6])
def test_two_rows_make_two_splits(tmp_path, fraction) -> None:
    write_rows(tmp_path / "a.safetensors", np.ones((2, 4), np.int32))
    for split in SPLITS:
        (file,) = open_rows(tmp_path, split, held_out_fraction=fraction)
        assert len(file.rows) == 1


def test_rows_of_files_of_different_length_are_joined(tmp_path) -> None:
    a = write_rows(tmp_path / "a.safetensors", np.full((3, 9), 1))
    b = write_rows(tmp_path / "b.safetensors", np.full((2, 5), 2))
    windows = RowWindows([RowFile(a), RowFile(b)], seq_len=4, vocab_size=5)
    assert (windows.num_windows, windows.num_tokens) == (3 * 2 + 2, 3 * 8 + 2 * 4)
    batch = windows.rows(np.arange(8), shift=0)
    assert batch.input_ids[:, 0].tolist() == [1] * 6 + [2] * 2


@pytest.mark.parametrize(
    ("tensors", "found"),
    [
        ({"input_ids": np.ones(9, np.int32)}, r"`input_ids` of shape \[9\] and no manifest\.json"),
        ({"input_ids": np.ones((9, 1), np.int32)}, r"of shape \[9, 1\] and no manifest\.json"),
        ({"input_ids": np.ones((2, 3), np.float32), "x": np.ones(1, np.int8)}, r"\(it has: x\)"),
        (
            {"input_ids": np.ones((2, 3), np.int32), "labels": np.ones((2, 2), np.int32)},
            r"`labels` of shape \[2, 2\], expected that of `input_ids`, \[2, 3\]",
        ),
    ],
)
def test_other_shapes_are_refused(tmp_path, tensors, found) -> None:
    path = write_rows(tmp_path / "a.safetensors", **tensors)
    with pytest.raises(UserError, match=rf"^shard .*a\.safetensors has .*{found}"):
        RowFile(path)


@pytest.mark.parametrize(
    ("ids", "labels", "found"),
    [
        ([1, 2, 100], [1, 2, 3], "holds id 100 at 2 of `input_ids`"),
        ([1, -1, 3], [1, 2, 3], "holds id -1 at 1 of `input_ids`"),
        ([1, 2, 3], [1, 100, 3], "holds id 100 at 1 of `labels`"),
        ([1, 2, 3], [1, 2, -1], "holds id -1 at 2 of `labels`"),
    ],
)
def test_ids_outside_the_vocabulary_are_refused(tmp_path, ids, labels, found) -> None:
    path = write_rows(tmp_path / "a.safetensors", np.array([ids]), labels=np.array([labels]))
    with pytest.raises(UserError, match=rf"{found}, but the vocabulary has 100 ids"):
        all_rows([RowFile(path)], 4, vocab_size=100)


def test_a_directory_without_shards_or_with_one_row_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match=r"holds no shards \(neither manifest\.json nor \*\.safet"):
        open_rows(tmp_path, "train", held_out_fraction=0.1)
    write_rows(tmp_path / "a.safetensors", np.ones((1, 4), np.int32))
    with pytest.raises(UserError, match=r"holds 1 row\(s\), of which none can be held out"):
        open_rows(tmp_path, "train", held_out_fraction=0.1)
