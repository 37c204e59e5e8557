"""Rows in order: row b of a step goes on where row b of the step before ended."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from rtdlm.config.errors import UserError
from rtdlm.data import Batch, Loader
from rtdlm.data.warmup import Warmup
from tests.data.corpora import write_prepared, write_rows
from tests.models.small import small_config

N, T, B = 203, 8, 3  # Tokens of the stream, of a row; rows of a batch.
LANE = 8  # 26 windows, of which three lanes read 24.
DOCUMENT = 500
STARTS = (0, 16, 17, 61, 88, 150)  # Two of them where an unshifted window begins.


@pytest.fixture(scope="module")
def stream(tmp_path_factory) -> Path:
    """Ids are their places, but for tokens that begin documents."""
    ids = np.arange(N) + DOCUMENT + 1
    ids[list(STARTS)] = DOCUMENT
    return write_prepared(
        tmp_path_factory.mktemp("stream") / "out",
        {"train": [ids[:90], ids[90:]], "heldout": [ids[:50]]},
        vocab_size=DOCUMENT + N + 1,
        document_id=DOCUMENT,
    )


def loader(*directories: Path, **arguments) -> Loader:
    settings = {"seq_len": T, "batch_size": B, "seed": 0, "in_order": True} | arguments
    return Loader(directories, **settings)


def lanes(data: Loader, epoch: int) -> list[list[Batch]]:
    """Row by row what each lane reads in an epoch; arrays are `[T]`."""
    batches = [data.batch(epoch * LANE + step) for step in range(LANE)]
    return [[Batch(*(array[b] for array in batch)) for batch in batches] for b in range(B)]


@pytest.mark.parametrize("epoch", range(4))
def test_a_lane_reads_on(stream: Path, epoch: int) -> None:
    for lane in lanes(loader(stream), epoch):
        for before, row in itertools.pairwise(lane):
            assert row.input_ids[0] == before.labels[before.weights > 0][-1]


def test_an_epoch_reads_every_window_once_but_for_fewer_than_a_batch(stream: Path) -> None:
    data, begins = loader(stream), set()
    assert (data.rows_per_epoch, data.tokens_per_epoch) == (LANE * B, LANE * B * T)
    for epoch in range(4):
        rows = [row for lane in lanes(data, epoch) for row in lane]
        counted = [label for row in rows for label in row.labels[row.weights > 0]]
        places = [label for label in counted if label != DOCUMENT]
        assert len(set(places)) == len(places) >= (LANE * B - 1) * T - len(STARTS)
        begins.add(int(rows[0].input_ids[0]))
    assert len(begins) > 1, "lanes begin elsewhere in each epoch"


def test_a_row_says_whether_it_begins_inside_the_document_before(stream: Path) -> None:
    seen = set()
    for epoch in range(8):
        for lane in lanes(loader(stream), epoch):
            for before, row in zip([None, *lane], lane, strict=False):
                # The last window of a pass is the only short one.
                first = before is None or not before.weights.all()
                begins = bool(row.input_ids[0] == DOCUMENT)
                seen.add((first, begins))
                documents = np.cumsum(row.input_ids == DOCUMENT) - begins + 1 + (first or begins)
                np.testing.assert_array_equal(row.segment_ids, documents * (row.weights > 0))
    assert {(True, False), (False, True), (False, False)} <= seen


def test_any_rows_of_any_step_can_be_read_alone(stream: Path) -> None:
    data = loader(stream)
    for step in (0, 5, LANE, 3 * LANE + 2):
        for array, part in zip(data.batch(step), data.rows(step, 1, 3), strict=True):
            np.testing.assert_array_equal(array[1:3], part)


def test_parts_of_a_sequence_follow_each_other(tmp_path: Path) -> None:
    """Sequences of 20 tokens are three rows each; two files, of four sequences and of five."""
    ids = np.arange(180).reshape(9, 20)
    write_rows(tmp_path / "a.safetensors", ids[:4])
    write_rows(tmp_path / "b.safetensors", ids[4:])
    seen = []
    data = loader(tmp_path, vocab_size=180, held_out_fraction=0.2)
    for b in range(B):
        lane = [data.batch(step).input_ids[b] for step in range(data.rows_per_epoch // B)]
        documents = [data.batch(step).segment_ids[b].max() for step in range(len(lane))]
        for before, row, document in zip(lane, lane[1:], documents[1:], strict=False):
            assert document == (1 if row[0] == before.max() + 1 and row[0] % 20 else 2)
            seen.append(document)
        assert documents[0] == 2
    assert {1, 2} == set(seen)


def test_what_cannot_be_in_order_is_refused(stream: Path) -> None:
    with pytest.raises(UserError, match="has 26 rows, of which batch_size=27 cannot be read in or"):
        loader(stream, batch_size=27)
    with pytest.raises(UserError, match="neither weights nor warmup"):
        loader(stream, stream, weights=(1.0, 2.0))
    config = small_config(max_seq_len=T, warmup={"seq_len": 4, "seq_len_steps": 10})
    with pytest.raises(UserError, match="neither weights nor warmup"):
        loader(stream, warmup=Warmup(config))
