"""A study that was stopped goes on: whole records of the same commit are found again, no others."""

from pathlib import Path
from typing import NamedTuple

import pytest

from studies.journal import Journal


class Ran(NamedTuple):
    right: dict[int, float]


FIRST, SECOND = ("none", 0), ("all", 0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "study.journal"
    journal = Journal(path, at="abc")
    journal.add(FIRST, Ran({3: 0.1}))
    journal.add(SECOND, Ran({3: 0.9}))
    return path


def test_records_are_found_again(file: Path) -> None:
    again = Journal(file, at="abc")
    assert again[FIRST] == Ran({3: 0.1})
    assert again[SECOND] == Ran({3: 0.9})
    assert ("all", 1) not in again


@pytest.mark.parametrize("at", ["abd", "abc+"])
def test_no_records_of_other_sources(file: Path, at: str) -> None:
    assert FIRST not in Journal(file, at=at)


def test_a_checkout_with_changes_writes_nothing(tmp_path: Path) -> None:
    Journal(tmp_path / "a", at="abc+").add(FIRST, Ran({}))
    assert list(tmp_path.iterdir()) == []


def test_a_record_cut_by_a_kill_is_written_again(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-3])
    again = Journal(file, at="abc")
    assert FIRST in again and SECOND not in again
    again.add(SECOND, Ran({3: 0.8}))
    assert Journal(file, at="abc")[SECOND] == Ran({3: 0.8})
    assert FIRST in Journal(file, at="abc")
