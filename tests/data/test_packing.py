import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rtdlm.data.packing import pack

DOC = 9


def reference(ids: list[int], length: int) -> list[tuple[int, int, int, int, float]]:
    """One row, position by position."""
    rows, segment, position = [], 1, 0
    for place in range(len(ids) - 1):
        if ids[place] == DOC and place > 0:
            segment, position = segment + 1, 0
        if place < length:
            rows.append((ids[place], ids[place + 1], segment, position, 1.0))
        else:
            rows.append((0, 0, 0, 0, 0.0))
        position += 1
    return rows


def test_a_row_by_hand() -> None:
    batch = pack(np.array([[3, 4, DOC, 5, DOC, DOC, 6, 7]]), lengths=np.array([6]), document_id=DOC)
    assert batch.input_ids.tolist() == [[3, 4, DOC, 5, DOC, DOC, 0]]
    assert batch.labels.tolist() == [[4, DOC, 5, DOC, DOC, 6, 0]]  # The last word predicts the end.
    assert batch.segment_ids.tolist() == [[1, 1, 2, 2, 3, 4, 0]]
    assert batch.positions.tolist() == [[0, 1, 0, 1, 0, 0, 0]]
    assert batch.weights.tolist() == [[1, 1, 1, 1, 1, 1, 0]]


@given(
    rows=st.lists(st.lists(st.integers(5, DOC), min_size=8, max_size=8), min_size=1, max_size=5),
    length=st.integers(1, 7),
)
def test_rows_equal_a_loop(rows: list[list[int]], length: int) -> None:
    ids = np.array(rows, np.int32)
    batch = pack(ids, lengths=np.full(len(rows), length), document_id=DOC)
    assert [array.dtype for array in batch] == [np.int32] * 4 + [np.float32]
    for index, row in enumerate(rows):
        found = list(zip(*(array[index].tolist() for array in batch), strict=True))
        assert found == reference(row, length)


@given(lengths=st.lists(st.integers(0, 6), min_size=1, max_size=6))
def test_packed_documents_equal_separate_ones(lengths: list[int]) -> None:
    texts = [list(range(10, 10 + length)) for length in lengths]
    stream = [token for text in texts for token in [DOC, *text]] + [DOC]
    ids = np.array([stream], np.int32)
    packed = pack(ids, lengths=np.array([len(stream) - 1]), document_id=DOC)
    for number, text in enumerate(texts, start=1):
        alone = pack(
            np.array([[DOC, *text, DOC]], np.int32),
            lengths=np.array([1 + len(text)]),
            document_id=DOC,
        )
        inside = packed.segment_ids[0] == number
        for field in ("input_ids", "labels", "positions", "weights"):
            np.testing.assert_array_equal(
                getattr(packed, field)[0][inside], getattr(alone, field)[0], err_msg=field
            )
