import threading
import time

import pytest

from rtdlm.data import prefetch


def threads() -> int:
    return sum(thread.name.startswith("prefetch") for thread in threading.enumerate())


def test_items_come_in_order_from_one_other_thread() -> None:
    seen: set[int] = set()

    def get(index: int) -> int:
        seen.add(threading.get_ident())
        return index * index

    with prefetch(get, 5, 3, stop=25) as items:
        assert list(items) == [index * index for index in range(5, 25)]
    assert len(seen) == 1
    assert threading.get_ident() not in seen


def test_exactly_depth_items_are_built_ahead() -> None:
    built: list[int] = []
    with prefetch(lambda index: built.append(index) or index, 0, 3) as items:
        for taken in range(5):
            deadline = time.monotonic() + 10
            while len(built) < taken + 3 and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(0.01)  # Time enough to build one too many.
            assert built == list(range(taken + 3))
            assert next(items) == taken


def test_work_overlaps_with_the_consumer() -> None:
    started, wanted = threading.Event(), threading.Event()

    def get(index: int) -> int:
        if index == 1:
            started.set()
            assert wanted.wait(10)
        return index

    with prefetch(get, 0, 2) as items:
        assert next(items) == 0
        assert started.wait(10)  # Item 1 is in the making, though nobody asked.
        wanted.set()
        assert next(items) == 1


def test_an_error_comes_where_its_item_would_have() -> None:
    def get(index: int) -> int:
        if index == 2:
            raise KeyError("shard")
        return index

    items = prefetch(get, 0, 4)
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(KeyError, match="shard"):
        next(items)
    assert threads() == 0
    assert list(items) == []


def test_closing_ends_the_thread_and_the_items() -> None:
    items = prefetch(lambda index: index, 0, 2)
    assert next(items) == 0
    assert threads() == 1
    items.close()
    assert threads() == 0
    assert list(items) == []


def test_an_empty_range_is_empty() -> None:
    assert list(prefetch(lambda index: index, 3, 2, stop=3)) == []
