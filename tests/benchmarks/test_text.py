from pathlib import Path

import numpy as np
import pytest

from benchmarks.text import read_characters, windows
from rtdlm.config import UserError


def test_the_vocabulary_is_the_texts_own(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("cab " * 500)
    text = read_characters(file)
    assert text.vocab_size == 4
    assert text.train_N[:4].tolist() == [3, 1, 2, 0]  # " " a b c
    assert (len(text.train_N), len(text.held_out_N)) == (1800, 200)


def test_windows_do_not_overlap_and_labels_follow() -> None:
    found = windows(np.arange(8), length=3)
    assert found.ids_BT.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found.labels_BT.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert windows(np.arange(6), length=3).ids_BT.tolist() == [[0, 1, 2]]  # 5 has no successor


def test_a_text_that_is_missing_or_short_is_told(tmp_path: Path) -> None:
    missing, short = tmp_path / "missing.txt", tmp_path / "short.txt"
    short.write_text("too short")
    with pytest.raises(UserError, match=r"cannot be read: No such file .*; name another with"):
        read_characters(missing)
    with pytest.raises(UserError, match=r"has 9 characters and the benchmark needs at least 1280"):
        read_characters(short)
