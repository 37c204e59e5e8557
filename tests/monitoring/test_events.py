from collections.abc import Callable

import pytest

from rtdlm.monitoring import Event, EventStream, Notice

NOTICE = Notice(1, "info", "hello")


class Recorder:
    """Notes what it is called with, under its name, in a list that several share."""

    def __init__(self, name: str, log: list[tuple[str, object]]) -> None:
        self._name, self._log = name, log

    def __call__(self, event: Event) -> None:
        self._log.append((self._name, event))

    def close(self) -> None:
        self._log.append((self._name, "closed"))


class Broken(Recorder):
    def __call__(self, event: Event) -> None:
        raise OSError("broken sink")

    def close(self) -> None:
        super().close()
        raise OSError("broken close")


def test_events_reach_every_sink_in_order_and_all_are_closed() -> None:
    log: list[tuple[str, object]] = []
    with EventStream([Recorder("a", log), Recorder("b", log)]) as stream:
        stream.emit(NOTICE)
    assert log == [("a", NOTICE), ("b", NOTICE), ("a", "closed"), ("b", "closed")]


def test_a_sinks_exception_goes_to_the_caller() -> None:
    stream = EventStream([Broken("a", [])])
    with pytest.raises(OSError, match="broken sink"):
        stream.emit(NOTICE)


@pytest.mark.parametrize("order", [lambda sinks: sinks, lambda sinks: sinks[::-1]])
def test_all_sinks_are_closed_though_one_of_them_breaks(
    order: Callable[[list[Recorder]], list[Recorder]],
) -> None:
    log: list[tuple[str, object]] = []
    stream = EventStream(order([Recorder("a", log), Broken("b", log), Recorder("c", log)]))
    with pytest.raises(OSError, match="broken close"):
        stream.close()
    assert sorted(log) == [("a", "closed"), ("b", "closed"), ("c", "closed")]


def test_an_error_in_the_run_closes_the_sinks() -> None:
    log: list[tuple[str, object]] = []
    with pytest.raises(KeyError), EventStream([Recorder("a", log)]):
        raise KeyError
    assert log == [("a", "closed")]
