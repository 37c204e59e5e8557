import pytest

from rtdlm.checkpoint.retention import steps_to_keep

STEPS = [100, 200, 250, 300, 400, 500]


@pytest.mark.parametrize(
    ("best", "keep_last", "keep_every", "kept"),
    [
        (None, 1, 0, {500}),
        (None, 2, 0, {400, 500}),
        (None, 9, 0, {100, 200, 250, 300, 400, 500}),
        (250, 1, 0, {250, 500}),
        (500, 2, 0, {400, 500}),
        (250, 2, 200, {200, 250, 400, 500}),
        (None, 1, 250, {250, 500}),
        (None, 1, 1000, {500}),
        (600, 1, 0, {500}),
    ],
)
def test_the_table(best: int | None, keep_last: int, keep_every: int, kept: set[int]) -> None:
    for steps in (STEPS, STEPS[::-1]):
        found = steps_to_keep(steps, best=best, keep_last=keep_last, keep_every=keep_every)
        assert found == kept


def test_nothing_is_kept_of_nothing() -> None:
    assert steps_to_keep([], best=None, keep_last=2, keep_every=100) == set()
