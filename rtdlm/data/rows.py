"""Shards of other pipelines: `input_ids` [N, L] in safetensors files, one sequence a row.

Without a `manifest.json`, a directory's `*.safetensors` are read so:

    input_ids        [N, L] of any integer type; required
    attention_mask   [N, L], 0 marks padding; optional
    labels           [N, L], Hugging Face's convention: labels[t] = input_ids[t], or -100 to ignore
                     it. They are shifted here, once, so that position t predicts labels[t + 1]

A row is one document. It has L - 1 inputs with a label; with T of them in a training row it is cut
into ceil((L - 1) / T) rows, the last filled up with padding. Files named `heldout*` or
`validation*` are the held-out split and the others train; without such files, rows are held out by
a hash of file name and row number.

Axes: N rows of a file, L its row length, R rows of a batch, T positions.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rtdlm.config.errors import UserError
from rtdlm.data.batch import Batch
from rtdlm.data.manifest import Split
from rtdlm.data.permutation import hash_indices, mix
from rtdlm.data.shards import INPUT_IDS, check_ids, open_tensors

IGNORED_LABEL = -100

_HELD_OUT_NAMES = ("heldout", "held_out", "held-out", "validation")
_OPTIONAL = ("attention_mask", "labels")


class RowWindows:
    """The training rows in the sequences of one split of a directory.

    Attributes:
        num_windows: training rows.
        num_tokens: labels in them, ignored ones included [tokens].
        num_shifts: 1; sequences start where they start.
    """

    num_shifts = 1

    def __init__(self, files: Sequence["RowFile"], *, seq_len: int, vocab_size: int) -> None:
        self._files = list(files)
        self._seq_len = seq_len
        self._vocab_size = vocab_size
        self._ends = np.cumsum([file.num_windows(seq_len) for file in files], dtype=np.int64)
        self.num_windows = int(self._ends[-1]) if len(files) else 0
        self.num_tokens = sum(len(file.rows) * (file.length - 1) for file in files)

    def rows(self, windows: np.ndarray, *, shift: int) -> Batch:
        """The rows of `windows` [R]; `shift` is 0."""
        assert shift == 0, f"sequences cannot be shifted by {shift}"
        parts = [self._row(int(window)) for window in windows]
        return Batch(*(np.stack(arrays) for arrays in zip(*parts, strict=True)))

    def goes_on(self, windows: np.ndarray, *, shift: int) -> np.ndarray:
        """Bool [R]: the row is a later part of the sequence whose part the window before is."""
        assert shift == 0, f"sequences cannot be shifted by {shift}"
        return np.array([self._place(int(window))[2] > 0 for window in windows], bool)

    def _row(self, window: int) -> Batch:
        file, row, part = self._place(window)
        return file.window(int(file.rows[row]), part, self._seq_len, self._vocab_size)

    def _place(self, window: int) -> tuple["RowFile", int, int]:
        """File of a window, row among those of the split, and part of that row."""
        number = int(np.searchsorted(self._ends, window, side="right"))
        file = self._files[number]
        first = int(self._ends[number]) - file.num_windows(self._seq_len)
        return file, *divmod(window - first, file.windows_per_row(self._seq_len))


class RowFile:
    """One file of sequences and which of its rows are in the split.

    Attributes:
        rows: int64, the rows of the split.
        length: L, tokens a row.
    """

    def __init__(self, path: Path) -> None:
        tensors = open_tensors(path)
        if INPUT_IDS not in tensors:
            raise UserError(
                f"shard {path} has no integer tensor `input_ids` (it has: "
                f"{', '.join(tensors) or 'no integer tensor'}); rename the one that holds the ids"
            )
        self.ids = tensors[INPUT_IDS]
        if len(self.ids.shape) != 2 or self.ids.shape[1] < 2:
            raise UserError(
                f"shard {path} has `input_ids` of shape {list(self.ids.shape)} and no "
                "manifest.json beside it, expected [rows, at least 2 tokens]; reshape it or "
                "prepare the text with `python -m rtdlm.prepare`"
            )
        self.extras = {name: tensors[name] for name in _OPTIONAL if name in tensors}
        for name, tensor in self.extras.items():
            if tensor.shape != self.ids.shape:
                raise UserError(
                    f"shard {path} has `{name}` of shape {list(tensor.shape)}, expected that of "
                    f"`input_ids`, {list(self.ids.shape)}; write both for the same rows"
                )
        self.length = self.ids.shape[1]
        self.rows = np.arange(self.ids.shape[0], dtype=np.int64)

    @property
    def path(self) -> Path:
        """Of the file."""
        return self.ids.path

    def windows_per_row(self, seq_len: int) -> int:
        """Training rows that a sequence is cut into."""
        return -(-(self.length - 1) // seq_len)

    def num_windows(self, seq_len: int) -> int:
        """Training rows of the split."""
        return len(self.rows) * self.windows_per_row(seq_len)

    def window(self, row: int, part: int, seq_len: int, vocab_size: int) -> Batch:
        """Training row `part` of sequence `row`; arrays are [T]."""
        place = slice(part * seq_len, part * seq_len + seq_len + 1)
        ids = self.ids.map()[row, place].astype(np.int64)
        offset = row * self.length + part * seq_len
        check_ids(ids, self.ids, vocab_size, offset)
        visible = self._read("attention_mask", row, place, np.ones_like(ids)) != 0
        targets = self._read("labels", row, place, ids)
        counted = targets != IGNORED_LABEL
        check_ids(
            np.where(counted, targets, 0), self.extras.get("labels", self.ids), vocab_size, offset
        )
        self._check_unshifted(ids, targets, counted, row)
        weights = counted[1:] & visible[1:] & visible[:-1]
        positions = np.cumsum(visible[:-1]) - 1
        missing = (0, seq_len + 1 - len(ids))
        fields = (
            (np.where(visible[:-1], ids[:-1], 0), np.int32),
            (np.where(weights, targets[1:], 0), np.int32),
            (visible[:-1], np.int32),
            (np.where(visible[:-1], positions, 0), np.int32),
            (weights, np.float32),
        )
        return Batch(*(np.pad(values.astype(dtype), missing) for values, dtype in fields))

    def _check_unshifted(
        self, ids: np.ndarray, targets: np.ndarray, counted: np.ndarray, row: int
    ) -> None:
        """Labels stand at their own token's position; shifted ones would be shifted twice."""
        if np.any(counted & (targets != ids)):
            place = int(np.flatnonzero(counted & (targets != ids))[0])
            raise UserError(
                f"shard {self.path} has label {targets[place]} at row {row} where input_ids has "
                f"{ids[place]}; labels must equal input_ids or be {IGNORED_LABEL}: "
                "they are shifted here"
            )

    def _read(self, name: str, row: int, place: slice, default: np.ndarray) -> np.ndarray:
        tensor = self.extras.get(name)
        return default if tensor is None else tensor.map()[row, place].astype(np.int64)


def open_rows(directory: Path, split: Split, *, held_out_fraction: float) -> list[RowFile]:
    """The files of a directory without manifest, with the rows of one split.

    Raises:
        UserError: there are no shards, or one is damaged or of another shape.
    """
    paths = sorted(directory.glob("*.safetensors"))
    if not paths:
        raise UserError(
            f"{directory} holds no shards (neither manifest.json nor *.safetensors); make them "
            "with `python -m rtdlm.prepare`"
        )
    held_out = [path for path in paths if path.name.startswith(_HELD_OUT_NAMES)]
    if held_out:
        chosen = held_out if split == "heldout" else [p for p in paths if p not in held_out]
        return [RowFile(path) for path in chosen]
    files = [RowFile(path) for path in paths]
    _hold_out_rows(files, split, held_out_fraction)
    return [file for file in files if len(file.rows)]


def _hold_out_rows(files: Sequence[RowFile], split: Split, held_out_fraction: float) -> None:
    """Leaves in each file the rows of one split; at least one row is held out, if there are two."""
    hashes = [hash_indices(file.rows, key=mix(*file.path.name.encode("utf-8"))) for file in files]
    merged = np.concatenate(hashes)
    if merged.size < 2:
        raise UserError(
            f"{files[0].path.parent} holds {merged.size} row(s), of which none can be held out; "
            "add rows or a file heldout.safetensors"
        )
    share = np.uint64(min(int(held_out_fraction * 2**64), 2**64 - 1))
    threshold = min(max(share, merged.min() + np.uint64(1)), merged.max())
    for file, values in zip(files, hashes, strict=True):
        held_out = values < threshold
        file.rows = file.rows[held_out if split == "heldout" else ~held_out]
