"""Batches that start small: what each step reads, and that no token is lost or read twice."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from rtdlm.config import AGIConfig, UserError
from rtdlm.data import Batch, Loader, Warmup, cut_rows
from rtdlm.data.batch import empty_batch
from tests.data.corpora import write_prepared

T, B, N = 16, 8, 4096


def config(**warmup: int) -> AGIConfig:
    return AGIConfig.from_preset("tiny", batch_size=B, max_seq_len=T, warmup=warmup)


ROWS = {"batch_size": 2, "batch_steps": 10}
LENGTH = {"seq_len": 4, "seq_len_steps": 7}


def test_sizes_double_at_even_distances_and_then_stay() -> None:
    warmup = Warmup(config(**ROWS, **LENGTH))
    assert [warmup.rows(step) for step in range(13)] == [2] * 5 + [4] * 5 + [8] * 3
    assert [warmup.pieces(step) for step in range(9)] == [4] * 4 + [2] * 3 + [1] * 2
    assert warmup.starts == (0, 4, 5, 7, 10)


@pytest.mark.parametrize("given", [{}, ROWS, LENGTH, ROWS | LENGTH, ROWS | {"batch_steps": 1}])
def test_counts_are_the_sum_of_what_steps_read(given: Mapping[str, int]) -> None:
    warmup = Warmup(config(**given))
    for step in range(20):
        read = sum(warmup.rows(before) for before in range(step))
        assert warmup.rows_before(step) == read
        assert warmup.tokens_before(step) == read * T
        if step:
            assert warmup.steps_for(read * T) == step
            assert warmup.steps_for(read * T - 1) == step
            assert warmup.steps_for(read * T + 1) == step + 1


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A stream whose ids are their places."""
    return write_prepared(
        tmp_path_factory.mktemp("ring") / "out",
        {"train": [np.arange(N)], "heldout": [np.arange(64)]},
        vocab_size=N,
        document_id=0,
    )


def test_smaller_steps_read_the_same_rows_one_after_another(ring: Any) -> None:
    plain = Loader([ring], seq_len=T, batch_size=B, seed=0)
    small = Loader([ring], seq_len=T, batch_size=B, seed=0, warmup=Warmup(config(**ROWS, **LENGTH)))
    shapes = [small.batch(step).input_ids.shape for step in range(12)]
    assert shapes == [(8, 4)] * 4 + [(4, 8)] + [(8, 8)] * 2 + [(4, 16)] * 3 + [(8, 16)] * 2
    for name in ("input_ids", "labels", "weights"):
        read = np.concatenate([getattr(small.batch(step), name).reshape(-1) for step in range(12)])
        whole = np.concatenate([getattr(plain.batch(step), name).reshape(-1) for step in range(6)])
        np.testing.assert_array_equal(read, whole[: read.size], err_msg=name)
    one, other = small.rows(6, 0, 2), small.rows(6, 2, 4)
    joined = np.concatenate([one.input_ids, other.input_ids])
    np.testing.assert_array_equal(joined, small.batch(6).input_ids)
    assert small.held_out_batches()[0].input_ids.shape == (B, T), "held-out rows stay whole"


def test_a_document_that_goes_on_in_the_next_piece_begins_anew() -> None:
    segments = [1, 1, 1, 2, 2, 2, 2, 2, 2, 3, 0, 0]
    positions = [0, 1, 2, 0, 1, 2, 3, 4, 5, 0, 0, 0]
    batch = empty_batch(1, 12)._replace(
        input_ids=np.arange(12)[None], segment_ids=np.array([segments]),
        positions=np.array([positions]),
    )  # fmt: skip
    cut = cut_rows(batch, 3)
    assert cut.input_ids.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert cut.positions.tolist() == [[0, 1, 2, 0], [0, 1, 2, 3], [0, 0, 0, 0]]
    assert cut.segment_ids.tolist() == [[1, 1, 1, 2], [2, 2, 2, 2], [2, 3, 0, 0]]
    assert isinstance(cut, Batch)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"batch_size": 2}, "warmup.batch_size=2 has no effect without warmup.batch_steps"),
        ({"seq_len_steps": 9}, "warmup.seq_len_steps=9 has no effect without warmup.seq_len"),
        (ROWS | {"batch_size": 3}, "warmup.batch_size=3 does not grow to batch_size=8 by doubling"),
        (ROWS | {"batch_size": 8}, "warmup.batch_size=8 does not grow to batch_size=8"),
        (LENGTH | {"seq_len": 32}, "warmup.seq_len=32 does not grow to max_seq_len=16"),
        (LENGTH | {"seq_len_steps": 0}, "warmup.seq_len_steps=0 must be at least 1"),
    ],
)
def test_what_would_not_work_is_refused(given: Mapping[str, int], words: str) -> None:
    with pytest.raises(UserError, match=words):
        config(**given)


def test_micro_batches_must_split_the_first_batch_too() -> None:
    with pytest.raises(UserError, match=r"warmup.batch_size=2 is not divisible by accumulate"):
        config(**ROWS).replace(accumulate_steps=4)
