"""An array in pieces is the array."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rtdlm.checkpoint.pieces import Pieced, join_pieces, piece_name
from rtdlm.checkpoint.tensors import process_stem, read_parts, read_pieces, write_parts
from rtdlm.config.errors import UserError

Box = tuple[slice, ...]


@pytest.mark.parametrize(
    ("index", "shape", "name"),
    [
        ((), (), "w"),
        ((slice(None), slice(0, 4)), (3, 4), "w"),
        ((slice(0, 9),), (3,), "w"),
        ((slice(1, None), slice(None)), (3, 4), "w[1:3,0:4 of 3,4]"),
        ((slice(None), slice(0, 2)), (3, 4), "w[0:3,0:2 of 3,4]"),
        ((slice(None, 2),), (3,), "w[0:2 of 3]"),
        ((slice(0, 1), slice(None)), (2, 0), "w[0:1,0:0 of 2,0]"),
    ],
)
def test_a_piece_is_named_after_its_place(index: Box, shape: tuple[int, ...], name: str) -> None:
    assert piece_name("w", index, shape) == name


@st.composite
def boxed_arrays(draw: st.DrawFn) -> tuple[np.ndarray, list[Box]]:
    """An array of any bits, and boxes that it falls into."""
    shape = draw(st.lists(st.integers(0, 6), min_size=1, max_size=3))
    dtype = draw(st.sampled_from([np.dtype(ml_dtypes.bfloat16), np.dtype("u4"), np.dtype("f8")]))
    bits = np.random.default_rng(draw(st.integers(0, 99))).bytes(dtype.itemsize * 6**3)
    array = np.frombuffer(bits, dtype)[: int(np.prod(shape))].reshape(shape)
    boxes: list[Box] = [tuple(slice(0, size) for size in shape)]
    for _ in range(draw(st.integers(0, 6))):
        box = boxes.pop(draw(st.integers(0, len(boxes) - 1)))
        axis = draw(st.integers(0, len(shape) - 1))
        cut = draw(st.integers(box[axis].start, box[axis].stop))
        for part in (slice(box[axis].start, cut), slice(cut, box[axis].stop)):
            boxes.append((*box[:axis], part, *box[axis + 1 :]))
    return array, draw(st.permutations(boxes))


def join(array: np.ndarray, boxes: Sequence[Box]) -> Any:
    flat = {piece_name("a/b", box, array.shape): array[box] for box in boxes}
    return join_pieces(flat)["a/b"]


def assert_same(left: np.ndarray, right: np.ndarray) -> None:
    assert (left.dtype, left.shape, left.tobytes()) == (right.dtype, right.shape, right.tobytes())


@given(boxed_arrays(), st.data())
def test_any_part_of_an_array_in_pieces_is_that_of_the_whole(
    boxed: tuple[np.ndarray, list[Box]], data: st.DataObject
) -> None:
    array, boxes = boxed
    pieced = join(array, boxes)
    assert (pieced.shape, pieced.ndim, pieced.dtype) == (array.shape, array.ndim, array.dtype)
    assert pieced.nbytes == array.nbytes
    assert_same(np.asarray(pieced), array)
    bound = st.none() | st.integers(-7, 7)
    index = tuple(slice(data.draw(bound), data.draw(bound)) for _ in array.shape)
    index = index[: data.draw(st.integers(0, array.ndim))]
    assert_same(pieced[index], array[index])


def test_a_single_slice_and_another_type() -> None:
    array = np.arange(12, dtype=np.float32).reshape(4, 3)
    pieced = join(array, [(slice(0, 3), slice(0, 3)), (slice(3, 4), slice(0, 3))])
    assert isinstance(pieced, Pieced)
    assert_same(pieced[1:4], array[1:4])
    assert_same(pieced.__array__(np.float64), array.astype(np.float64))
    pieced[:][...] = 0
    assert_same(np.asarray(pieced), array)


def test_only_the_pieces_that_overlap_are_read() -> None:
    class Counting(np.ndarray):
        read: Any

        def __getitem__(self, index: Any) -> Any:
            self.read.append(self.shape)
            return np.asarray(self)[index]

    array, reads = np.arange(10.0), list[Any]()
    flat = {}
    for start, stop in ((0, 4), (4, 9), (9, 10)):
        part = array[start:stop].view(Counting)
        part.read = reads
        flat[piece_name("w", (slice(start, stop),), (10,))] = part
    assert join_pieces(flat)["w"][2:6].tolist() == [2.0, 3.0, 4.0, 5.0]
    assert reads == [(4,), (5,)]


def test_whole_arrays_stay_what_they_are() -> None:
    flat = {"a": np.arange(3), "b/c[x]": np.arange(2), "d[0:1 of 2]": np.arange(1)}
    flat["d[1:2 of 2]"] = np.arange(1)
    found = join_pieces(flat)
    assert found["a"] is flat["a"]
    assert found["b/c[x]"] is flat["b/c[x]"]
    assert set(found) == {"a", "b/c[x]", "d"}


@settings(max_examples=30)
@given(boxed_arrays(), st.data())
def test_a_piece_that_is_missing_is_told(
    boxed: tuple[np.ndarray, list[Box]], data: st.DataObject
) -> None:
    array, boxes = boxed
    number = data.draw(st.integers(0, len(boxes) - 1))
    assume(array[boxes[number]].size not in (0, array.size))
    left = array.size - array[boxes[number]].size
    with pytest.raises(ValueError, match=rf"^a/b has {left} of {array.size} numbers$"):
        join(array, boxes[:number] + boxes[number + 1 :])


# ------------------------------------------------------------------------------------- on the disk


def write(directory: Path, *, part_bytes: int) -> dict[str, np.ndarray]:
    """Rows of one matrix by three processes, the last of which has a vector too."""
    matrix, vector = np.arange(60, dtype=np.float32).reshape(6, 10), np.arange(5, dtype=np.int32)
    for process in range(3):
        rows = slice(2 * process, 2 * process + 2)
        own = {piece_name("w", (rows, slice(None)), matrix.shape): matrix[rows]}
        own |= {"v": vector} if process == 2 else {}
        write_parts(directory, process_stem("model", process), own, part_bytes=part_bytes)
    return {"w": matrix, "v": vector}


@pytest.mark.parametrize("part_bytes", [32, 10**6])
def test_what_several_wrote_is_read_as_one(tmp_path: Path, part_bytes: int) -> None:
    write_parts(tmp_path, "optimizer", {"w": np.zeros(3)}, part_bytes=10**6)
    written = write(tmp_path, part_bytes=part_bytes)
    parted = (tmp_path / "model.p00002-00001-of-00002.safetensors").exists()
    assert parted == (part_bytes == 32)
    found, pieces = read_parts(tmp_path, "model"), read_pieces(tmp_path, "model")
    assert set(found) == set(pieces) == {"w", "v"}
    for name, array in written.items():
        assert type(found[name]) is np.ndarray
        assert_same(found[name], array)
        assert_same(np.asarray(pieces[name]), array)
    assert isinstance(pieces["w"], Pieced)
    assert set(read_parts(tmp_path, "optimizer")) == {"w"}


def test_what_one_wrote_is_still_mapped(tmp_path: Path) -> None:
    write_parts(tmp_path, "model", {"w": np.arange(3.0)}, part_bytes=10**6)
    found = read_parts(tmp_path, "model")["w"]
    assert_same(found, np.arange(3.0))
    assert not found.flags.writeable


def test_a_file_without_its_neighbour_is_one_sentence(tmp_path: Path) -> None:
    write(tmp_path, part_bytes=10**6)
    (tmp_path / "model.p00001.safetensors").unlink()
    with pytest.raises(UserError) as error:
        read_pieces(tmp_path, "model")
    assert str(error.value) == (
        f"the checkpoint {tmp_path} is not whole: w has 40 of 60 numbers; choose another step "
        "beside it"
    )
