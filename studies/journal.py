"""What a long study has done so far, kept on disk: started again, it goes on where it was stopped.

A record stands for one side with one seed and is appended when that is done. Only records that the
same commit wrote count; a checkout with changes has no commit and keeps none.
"""

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import ROOT
from rtdlm.evaluation.results import commit

Key = tuple[str, int]
"""A side's name and a seed."""


class Journal:
    """Records of one study."""

    def __init__(self, file: Path | None, *, at: str | None = None) -> None:
        """`file` is where records are, and None keeps none; `at` is the commit, None for ours."""
        at = commit(ROOT) if at is None else at
        self._file = None if at is None or at.endswith("+") else file
        self._at = at
        self._end = 0
        self._found = {key: ran for when, key, ran in self._records() if when == at}

    def __contains__(self, key: Key) -> bool:
        return key in self._found

    def __getitem__(self, key: Key) -> Any:
        return self._found[key]

    def add(self, key: Key, ran: Any) -> None:
        """Appends what came of one side with one seed, any value that `pickle` takes."""
        self._found[key] = ran
        if self._file is None:
            return
        self._file.touch()
        with self._file.open("r+b") as file:
            file.truncate(self._end)  # of a record cut by a kill
            file.seek(self._end)
            pickle.dump((self._at, key, ran), file)
            self._end = file.tell()

    def _records(self) -> Iterator[tuple[str, Key, Any]]:
        if self._file is None or not self._file.is_file():
            return
        with self._file.open("rb") as file:
            while True:
                try:
                    record = pickle.load(file)
                except (EOFError, pickle.UnpicklingError):  # the end, or where a kill cut it
                    return
                self._end = file.tell()
                yield record
