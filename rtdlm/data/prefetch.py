"""Builds items ahead in a background thread, so that the step never waits for data."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetch(Generic[T]):
    """Iterates over get(start), get(start + 1), ... with `depth` of them built ahead.

    One thread calls `get`, in order; it starts at once and never runs more than `depth` items
    ahead. An exception in `get` is raised where its item would have come. Use it as a context
    manager or call `close`.
    """

    def __init__(self, get: Callable[[int], T], start: int, depth: int, stop: int | None) -> None:
        self._get = get
        self._next = start
        self._stop = stop
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
        self._ahead: deque[Future[T]] = deque()
        for _ in range(depth):
            self._submit()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        if not self._ahead:
            self.close()
            raise StopIteration
        item = self._ahead.popleft()
        try:
            result = item.result()
        except BaseException:
            self.close()
            raise
        self._submit()
        return result

    def close(self) -> None:
        """Drops what was not asked for yet and waits for the thread to end."""
        self._stop = self._next
        self._ahead.clear()
        self._executor.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> "Prefetch[T]":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _submit(self) -> None:
        if self._stop is None or self._next < self._stop:
            self._ahead.append(self._executor.submit(self._get, self._next))
            self._next += 1


def prefetch(
    get: Callable[[int], T], start: int = 0, depth: int = 2, *, stop: int | None = None
) -> Prefetch[T]:
    """Iterates over get(start), ..., get(stop - 1) with `depth` items built ahead in a thread.

    Args:
        get: builds item i; for training, the batch of step i placed on the devices. It is called
            from one other thread, in order.
        start: the first item.
        depth: items ahead of the one that was returned last, at least 1.
        stop: where to end; None never ends.
    """
    assert depth >= 1, f"depth={depth}"
    return Prefetch(get, start, depth, stop)
