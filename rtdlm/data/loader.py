"""`Loader`: batches of a run as a pure function of (seed, step).

Step i holds rows i B, ..., i B + B - 1 of an endless sequence (fewer, or cut, while `Warmup`
lasts). Row r is the k-th row of its source (see `mixture`), which is window
`permutation_e(k mod W)` of epoch e = k // W, where W is how many windows the source has. Each epoch
has a permutation of its own and, over a stream, shifts the boundaries of the windows by a number of
its own in [0, T). Epochs follow each other without a gap: a batch may end one and begin the next,
and no row is dropped.

In order, row b of step i goes on where row b of step i - 1 ended: an epoch is cut into B lanes of
W // B windows, of which every step reads the next one of each. Lanes begin elsewhere in each epoch;
the windows that are left over, fewer than B, wait for another. Segments of a row that begins inside
the document that the one before ended with count from 1, of any other row from 2.

Nothing is read but the rows that are asked for. So any step of any run can be rebuilt alone, and
each of several hosts builds only its rows of the same batch.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rtdlm.config.errors import UserError
from rtdlm.data.batch import Batch, empty_batch
from rtdlm.data.directory import ShardDirectory, open_directory
from rtdlm.data.held_out import HeldOutBatches
from rtdlm.data.manifest import SPLITS, Split
from rtdlm.data.mixture import Mixture
from rtdlm.data.permutation import mix, permute
from rtdlm.data.tokenizer import Tokenizer
from rtdlm.data.warmup import Warmup, cut_rows
from rtdlm.data.windows import JoinedWindows, fill_rows
from rtdlm.disk import hash_bytes

# Keep the streams of random numbers apart.
_PERMUTATION, _SHIFT, _LANES = 1, 2, 3


class Loader:
    """Batches [B, T] of one split of one or several directories of shards.

    Without weights, the directories are shuffled together as though they were one. With weights,
    each is its own source with its own epochs, and rows come from them in proportion.

    Attributes:
        seq_len: T, inputs in a row [tokens].
        vocab_size: ids are below this.
        document_id: the token that starts a document; None for shards of other pipelines.
        rows_per_epoch: as many as all directories have windows.
        tokens_per_epoch: labels in those, ignored ones included [tokens].
        steps_per_epoch: rows_per_epoch / batch_size, in general no whole number.
        bytes_per_token: text behind a label on average; None where it is not known [bytes].
        fingerprint: hash that names the data; another order of directories is other data.
    """

    def __init__(
        self,
        directories: Sequence[str | Path],
        weights: Sequence[float] = (),
        *,
        seq_len: int,
        batch_size: int,
        seed: int,
        split: Split = "train",
        vocab_size: int | None = None,
        held_out_fraction: float = 0.02,
        warmup: Warmup | None = None,
        in_order: bool = False,
    ) -> None:
        """Opens the shards; reads none of them, except to check the ids of small ones.

        Args:
            directories: written by `prepare`, or safetensors of another pipeline (see `rows`).
            weights: one a directory, in any positive unit; empty: by their number of windows.
            seq_len: T, inputs in a row [tokens].
            batch_size: B, rows in a batch over all hosts.
            seed: of the shuffle.
            split: `train` or `heldout`.
            vocab_size: that of the model; None takes the shards'.
            held_out_fraction: of directories that bring no split of their own.
            warmup: smaller batches or shorter rows at first; None has none.
            in_order: rows go on where those of the step before ended; without weights and warmup.

        Raises:
            UserError: shards are missing, damaged or do not belong together, or have too few rows
                to be read in order.
        """
        _check(directories, weights, seq_len, batch_size, split)
        self._paths = [Path(directory) for directory in directories]
        self.seq_len, self._batch_size, self._seed = seq_len, batch_size, seed
        self._vocab_size, self._warmup = vocab_size, warmup
        self._held_out_fraction = held_out_fraction
        opened = self._open(split)
        sources = [directory.windows for directory in opened]
        groups = [[source] for source in sources] if weights else [sources]
        self._groups = [JoinedWindows(group) for group in groups]
        self._mixture = Mixture(weights if weights else [1.0])
        self._tokenizer_path = next((d.path for d in opened if d.tokenizer_sha256), None)
        self.vocab_size = max(directory.vocab_size for directory in opened)
        self.document_id = next((d.manifest.document_id for d in opened if d.manifest), None)
        self._in_order = in_order
        self.rows_per_epoch = sum(group.num_windows for group in self._groups)
        self.tokens_per_epoch = sum(group.num_tokens for group in self._groups)
        if in_order:
            self._check_order()
            self.rows_per_epoch -= self.rows_per_epoch % batch_size
            self.tokens_per_epoch = min(self.tokens_per_epoch, self.rows_per_epoch * seq_len)
        self.steps_per_epoch = self.rows_per_epoch / batch_size
        self.bytes_per_token = _bytes_per_token(opened, split)
        self.fingerprint = _fingerprint(opened)

    def batch(self, step: int) -> Batch:
        """The batch of `step`, arrays [B, T]; of other sizes while `warmup` lasts."""
        count = self._batch_size if self._warmup is None else self._warmup.rows(step)
        return self.rows(step, 0, count)

    def rows(self, step: int, start: int, stop: int) -> Batch:
        """Rows `start`, ..., `stop` - 1 of the batch of `step`: what one of several hosts needs.

        They are counted before `warmup` cuts them into shorter ones.
        """
        if self._in_order:
            return self._rows_in_order(step, np.arange(start, stop, dtype=np.int64))
        warmup = self._warmup
        first = step * self._batch_size if warmup is None else warmup.rows_before(step)
        numbers = first + np.arange(start, stop, dtype=np.int64)
        groups, counts = self._mixture.assign(numbers)
        batch = empty_batch(len(numbers), self.seq_len)
        for group in np.unique(groups).tolist():
            places = np.flatnonzero(groups == group)
            epochs, indices = np.divmod(counts[places], self._groups[group].num_windows)
            for epoch in np.unique(epochs).tolist():
                now = epochs == epoch
                rows = self._epoch_rows(group, epoch, indices[now])
                fill_rows(batch, places[now], rows)
        return batch if warmup is None else cut_rows(batch, warmup.pieces(step))

    def held_out_batches(self, num_batches: int = 0) -> HeldOutBatches:
        """The fixed batches of the held-out split, whatever split this loader reads.

        Args:
            num_batches: at most so many, spread evenly over the split; 0 is all of it.
        """
        windows = JoinedWindows([directory.windows for directory in self._open("heldout")])
        return HeldOutBatches(
            windows,
            seq_len=self.seq_len,
            batch_size=self._batch_size,
            num_batches=num_batches,
        )

    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer beside the shards, if there is one."""
        return None if self._tokenizer_path is None else Tokenizer.load(self._tokenizer_path)

    def _epoch_rows(self, group: int, epoch: int, indices: np.ndarray) -> Batch:
        joined = self._groups[group]
        key = mix(self._seed, _PERMUTATION, group, epoch)
        windows = permute(indices, size=joined.num_windows, key=key)
        return joined.rows(windows, seq_len=self.seq_len, shifts=self._shifts(group, epoch))

    def _shifts(self, group: int, epoch: int) -> list[int]:
        return [
            mix(self._seed, _SHIFT, group, epoch, number) % source.num_shifts
            for number, source in enumerate(self._groups[group].sources)
        ]

    def _rows_in_order(self, step: int, lanes: np.ndarray) -> Batch:
        """The rows of `lanes` in the batch of `step`."""
        [joined] = self._groups
        length = joined.num_windows // self._batch_size
        epoch, place = divmod(step, length)
        first = mix(self._seed, _LANES, epoch) % joined.num_windows
        windows = (first + lanes * length + place) % joined.num_windows
        shifts = self._shifts(0, epoch)
        rows = joined.rows(windows, seq_len=self.seq_len, shifts=shifts)
        goes_on = joined.goes_on(windows, shifts=shifts) & (place > 0)
        counted = rows.segment_ids > 0
        return rows._replace(segment_ids=rows.segment_ids + (counted & ~goes_on[:, None]))

    def _check_order(self) -> None:
        if len(self._groups) > 1 or (self._warmup is not None and self._warmup.starts != (0,)):
            raise UserError(
                "rows in order go with neither weights nor warmup; leave out what a batch is mixed "
                "by and what makes first steps smaller"
            )
        if self.rows_per_epoch < self._batch_size:
            raise UserError(
                f"{', '.join(map(str, self._paths))} has {self.rows_per_epoch} rows, of which "
                f"batch_size={self._batch_size} cannot be read in order (memory.across_steps); "
                "lower batch_size or max_seq_len, or add text"
            )

    def _open(self, split: Split) -> list[ShardDirectory]:
        opened = [
            open_directory(
                path,
                split,
                seq_len=self.seq_len,
                vocab_size=self._vocab_size,
                held_out_fraction=self._held_out_fraction,
            )
            for path in self._paths
        ]
        _check_one_tokenizer(opened)
        return opened


def _check(
    directories: Sequence[str | Path],
    weights: Sequence[float],
    seq_len: int,
    batch_size: int,
    split: str,
) -> None:
    if not directories:
        raise UserError("no shards were named; give at least one directory of shards")
    if weights and (len(weights) != len(directories) or min(weights) <= 0):
        raise UserError(
            f"weights {list(weights)} do not fit {len(directories)} directories; give each a "
            "positive weight, or none"
        )
    if seq_len < 1 or batch_size < 1:
        raise UserError(f"seq_len={seq_len} and batch_size={batch_size} must be at least 1")
    if split not in SPLITS:
        raise UserError(f"split {split!r} is unknown; use one of {', '.join(SPLITS)}")


def _check_one_tokenizer(opened: Sequence[ShardDirectory]) -> None:
    with_tokenizer = [directory for directory in opened if directory.tokenizer_sha256]
    for other in with_tokenizer[1:]:
        first = with_tokenizer[0]
        if other.tokenizer_sha256 != first.tokenizer_sha256:
            raise UserError(
                f"{first.path} and {other.path} were made with different tokenizers; prepare both "
                f"with --tokenizer {first.path}/tokenizer.json"
            )


def _bytes_per_token(opened: Sequence[ShardDirectory], split: Split) -> float | None:
    totals = [directory.manifest.totals[split] for directory in opened if directory.manifest]
    if len(totals) < len(opened):
        return None
    return sum(t.text_bytes for t in totals) / sum(t.tokens for t in totals)


def _fingerprint(opened: Sequence[ShardDirectory]) -> str:
    return hash_bytes("".join(d.fingerprint for d in opened).encode())
