"""Arrays in pieces: what each of several hosts holds of an array, in a file of its own.

    decoder/embedding[0:4096,0:256 of 8192,256]      an entry of that host's safetensors file

A name without brackets is a whole array, which one host wrote. Reading puts no pieces together
before it is asked, and then only those that overlap what is asked for.
"""

import re
from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple

import numpy as np

Index = tuple[slice, ...]

_NAME = re.compile(r"(.*)\[([\d:,]*) of ([\d,]*)\]", re.DOTALL)


class Piece(NamedTuple):
    """A box of a larger array."""

    start: tuple[int, ...]
    array: np.ndarray


def piece_name(name: str, index: Index, shape: tuple[int, ...]) -> str:
    """What the part `index` of the array `name` of `shape` is called; `name` if it is all of it."""
    spans = [part.indices(size)[:2] for part, size in zip(index, shape, strict=True)]
    if all(span == (0, size) for span, size in zip(spans, shape, strict=True)):
        return name
    box = ",".join(f"{start}:{stop}" for start, stop in spans)
    return f"{name}[{box} of {','.join(map(str, shape))}]"


def join_pieces(flat: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Name -> array, or `Pieced` where `flat` has pieces of it.

    Raises:
        ValueError: pieces of an array are missing.
    """
    joined: dict[str, Any] = {}
    pieces: dict[str, tuple[tuple[int, ...], list[Piece]]] = {}
    for name, array in flat.items():
        match = _NAME.fullmatch(name)
        if match is None:
            joined[name] = array
            continue
        start = tuple(int(span.partition(":")[0]) for span in match[2].split(","))
        shape = tuple(map(int, match[3].split(",")))
        pieces.setdefault(match[1], (shape, []))[1].append(Piece(start, array))
    # Empty pieces may lie beside a whole array.
    return joined | {k: Pieced(k, *found) for k, found in pieces.items() if k not in joined}


class Pieced:
    """A whole array of which any part can be read; indexed by slices alone."""

    def __init__(self, name: str, shape: tuple[int, ...], pieces: list[Piece]) -> None:
        """`pieces` do not overlap and cover the array, or ValueError is raised."""
        self.shape, self._pieces = shape, pieces
        self.dtype = pieces[0].array.dtype
        found = sum(piece.array.size for piece in pieces)
        if found != prod(shape):
            raise ValueError(f"{name} has {found} of {prod(shape)} numbers")

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Size of the whole [bytes]."""
        return prod(self.shape) * self.dtype.itemsize

    def __getitem__(self, index: Index | slice) -> np.ndarray:
        """A new array with that part; reads the pieces that overlap it."""
        index = index if isinstance(index, tuple) else (index,)
        index += (slice(None),) * (self.ndim - len(index))
        spans = [part.indices(size) for part, size in zip(index, self.shape, strict=True)]
        assert all(step == 1 for _, _, step in spans), "only whole runs are read"
        out = np.empty([max(0, stop - start) for start, stop, _ in spans], self.dtype)
        for piece in self._pieces:
            here, there = [], []
            for (start, stop, _), own, size in zip(
                spans, piece.start, piece.array.shape, strict=True
            ):
                low, high = max(start, own), min(stop, own + size)
                here.append(slice(low - start, high - start))
                there.append(slice(low - own, high - own))
            if all(part.start < part.stop for part in here):
                out[tuple(here)] = piece.array[tuple(there)]
        return out

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All of it, for `np.asarray`."""
        whole = self[(slice(None),) * self.ndim]
        return whole if dtype is None else whole.astype(dtype)
