"""Which sides of a study run, and with which seeds."""

from argparse import Namespace

import pytest

from rtdlm.config.errors import UserError
from studies.sides import chosen, each

SIDES = {"none": 0, "window": 1, "recurrent": 2, "window and recurrent": 3}


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        ("", list(SIDES)),
        ("window", ["window"]),
        ("wind", ["window", "window and recurrent"]),
        ("recurrent,none", ["none", "recurrent"]),
        ("and,none", ["none", "window and recurrent"]),
    ],
)
def test_words_choose_sides(only: str, expected: list[str]) -> None:
    assert list(chosen(Namespace(only=only, smoke=False), SIDES, smoke=("none",))) == expected


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        ("store, novel", ["store, novel, age", "store, novel, use"]),
        ("store, novel, age", ["store, novel, age"]),
        ("none,all", ["none", "store, all"]),
    ],
)
def test_a_name_with_commas_is_one_word(only: str, expected: list[str]) -> None:
    sides = {"none": 0, "store, all": 1, "store, novel, age": 2, "store, novel, use": 3}
    assert list(chosen(Namespace(only=only, smoke=False), sides, smoke=())) == expected


def test_a_smoke_run_has_its_own_sides_unless_some_are_chosen() -> None:
    assert list(chosen(Namespace(only="", smoke=True), SIDES, smoke=("none",))) == ["none"]
    assert list(chosen(Namespace(only="window", smoke=True), SIDES, smoke=("none",))) == ["window"]


@pytest.mark.parametrize("only", ["warp", "none,warp", "none,,warp"])
def test_a_word_that_no_side_has_is_told(only: str) -> None:
    with pytest.raises(UserError, match="no side has 'warp' in its name; --only takes a word"):
        chosen(Namespace(only=only, smoke=False), SIDES, smoke=())


def test_seeds_begin_where_a_study_says() -> None:
    seen: list[tuple[str, int]] = []

    def one(name: str, side: int, seed: int) -> int:
        seen.append((name, seed))
        return 10 * side + seed

    flags = Namespace(journal=None, seeds=None, smoke=False)
    *_, last = each({"a": 1, "b": 2}, one, str, flags=flags, usual=2, first=3)
    assert seen == [("a", 3), ("b", 3), ("a", 4), ("b", 4)]
    assert last == {"a": [13, 14], "b": [23, 24]}
