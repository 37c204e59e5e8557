"""Who comes and who does not, among threads that call each other over a free port."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial

import pytest

from rtdlm.config import UserError
from rtdlm.parallel import roll_call
from rtdlm.parallel.roll_call import answer_roll, call_roll

LONG = 10.0
"""Seconds that no test waits for."""

Start = Callable[..., Future[str]]


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roll_call, "RETRY_SECONDS", 0.02)
    monkeypatch.setattr(roll_call, "ANSWER_SECONDS", 0.3)


@pytest.fixture
def address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a process of the run as a thread; its result is the sentence that ends it, or ''."""

    def told(act: Callable[[], None]) -> str:
        try:
            act()
        except UserError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(8) as pool:
        yield lambda act, address, **given: pool.submit(told, partial(act, address, **given))


def connect(address: str) -> socket.socket:
    """A connection to the coordinator, as soon as it listens."""
    host, port = address.split(":")
    for _ in range(500):
        with suppress(OSError):
            return socket.create_connection((host, int(port)), timeout=LONG)
        time.sleep(0.02)
    raise AssertionError(f"nobody listens at {address}")


def come(address: str, process: int, count: int) -> socket.socket:
    """A process that said its number and waits; the next to connect comes after it."""
    connection = connect(address)
    connection.sendall(json.dumps({"process": process, "count": count}).encode() + b"\n")
    return connection


def answer(connection: socket.socket) -> str | None:
    """What the coordinator tells one that waits."""
    with connection, connection.makefile() as lines:
        return json.loads(lines.readline())["problem"]


def test_all_come_in_any_order(address: str, start: Start) -> None:
    waiting = [start(answer_roll, address, process=n, count=4, seconds=LONG) for n in (3, 1)]
    time.sleep(0.1)  # nobody listens yet
    assert not any(process.done() for process in waiting)
    leader = start(call_roll, address, count=4, seconds=LONG)
    time.sleep(0.1)
    assert not any(process.done() for process in (leader, *waiting)), "one is still missing"
    last = start(answer_roll, address, process=2, count=4, seconds=LONG)
    assert [process.result(LONG) for process in (leader, *waiting, last)] == [""] * 4


def test_the_port_is_free_when_all_came(address: str, start: Start) -> None:
    for _ in range(2):
        leader = start(call_roll, address, count=2, seconds=LONG)
        other = start(answer_roll, address, process=1, count=2, seconds=LONG)
        assert (leader.result(LONG), other.result(LONG)) == ("", "")
    socket.create_server(("127.0.0.1", int(address.split(":")[1]))).close()


@pytest.mark.parametrize(
    ("count", "present", "missing"),
    [
        (3, [1], "process 2 of 3"),
        (3, [], "processes 1, 2 of 3"),
        (6, [2, 5], "processes 1, 3, 4 of 6"),
        (
            25,
            [7],
            "processes 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21 and "
            "3 more of 25",
        ),
    ],
)
def test_all_are_told_who_did_not_come(
    address: str, start: Start, count: int, present: list[int], missing: str
) -> None:
    leader = start(call_roll, address, count=count, seconds=0.5)
    waiting = [start(answer_roll, address, process=n, count=count, seconds=LONG) for n in present]
    sentence = f"{missing} (numbered from 0) did not come within 0.5 s of the start; start all "
    assert [process.result(LONG) for process in (leader, *waiting)] == [
        f"{sentence}{count}" for _ in range(1 + len(present))
    ]


def test_a_coordinator_that_does_not_come_is_one_sentence(address: str, start: Start) -> None:
    assert start(answer_roll, address, process=1, count=2, seconds=0.2).result(LONG) == (
        f"process 1 found no coordinator at {address} within 0.2 s; start process 0 there, or let "
        "its port through"
    )


def test_a_coordinator_that_ends_and_starts_again_is_found(address: str, start: Start) -> None:
    host, port = address.split(":")
    other = start(answer_roll, address, process=1, count=2, seconds=LONG)
    with socket.create_server((host, int(port))) as first:
        connection, _ = first.accept()
        connection.makefile().readline()
        connection.close()
    leader = start(call_roll, address, count=2, seconds=LONG)
    assert (leader.result(LONG), other.result(LONG)) == ("", "")


@pytest.mark.parametrize("greeting", [b"SSH-2.0-OpenSSH\r\n", b"\x00\x00\x12\n", b"[1]\n", b"{}\n"])
def test_a_stranger_at_the_port_is_no_coordinator(
    address: str, start: Start, greeting: bytes
) -> None:
    host, port = address.split(":")
    with socket.create_server((host, int(port))) as stranger:
        other = start(answer_roll, address, process=1, count=2, seconds=0.5)
        connection, _ = stranger.accept()
        connection.sendall(greeting)
        connection.close()
    assert other.result(LONG).startswith(f"process 1 found no coordinator at {address} within")


def test_those_who_count_differently_are_told_and_so_are_the_others(
    address: str, start: Start
) -> None:
    leader = start(call_roll, address, count=3, seconds=LONG)
    waiting = come(address, 1, 3)
    other = start(answer_roll, address, process=3, count=4, seconds=LONG)
    sentence = "process 3 on 127.0.0.1 counts 4 processes and process 0 3; start all with the same "
    assert [leader.result(LONG), other.result(LONG), answer(waiting)] == [f"{sentence}number"] * 3


def test_two_with_the_same_number_are_told_and_so_are_the_others(
    address: str, start: Start
) -> None:
    leader = start(call_roll, address, count=4, seconds=LONG)
    waiting = [come(address, 1, 4), come(address, 2, 4)]
    other = start(answer_roll, address, process=1, count=4, seconds=LONG)
    sentence = "two processes say that they are process 1, one of them on 127.0.0.1; give each a "
    assert [leader.result(LONG), other.result(LONG), *map(answer, waiting)] == [
        f"{sentence}number of its own"
    ] * 4


def test_one_that_ended_while_it_waited_may_come_again(address: str, start: Start) -> None:
    leader = start(call_roll, address, count=3, seconds=LONG)
    come(address, 1, 3).close()
    again = start(answer_roll, address, process=1, count=3, seconds=LONG)
    time.sleep(0.1)
    assert not leader.done(), "it counts once"
    last = start(answer_roll, address, process=2, count=3, seconds=LONG)
    assert [process.result(LONG) for process in (leader, again, last)] == [""] * 3


@pytest.mark.parametrize(
    ("words", "stays"),
    [
        (b"", True),
        (b"", False),
        (b"no end of line", True),
        (b"no end of line", False),
        (b"GET /metrics HTTP/1.1\r\nHost: head\r\n\r\n", True),
        (b"GET /metrics HTTP/1.1\r\nHost: head\r\n\r\n", False),
        (b"\x16\x03\x01\x00\xff\x9c\x00\n", False),
        (b"x" * 70_000, True),
        (b"[" * 60_000 + b"\n", False),
        (b"7\n", False),
        (b"null\n", False),
        (b'{"count": 3}\n', False),
        (b'{"process": [1], "count": 3}\n', False),
        (b'{"process": "1", "count": "3"}\n', False),
        (b'{"process": 0, "count": 3}\n', True),
        (b'{"process": 3, "count": 3}\n', True),
        (b'{"process": -1, "count": 3}\n', True),
    ],
)
def test_strangers_do_not_disturb_the_roll(
    address: str, start: Start, words: bytes, stays: bool
) -> None:
    leader = start(call_roll, address, count=3, seconds=LONG)
    stranger = connect(address)
    with stranger:
        with suppress(OSError):  # it is cut off once it said too much
            stranger.sendall(words)
        if not stays:
            stranger.close()
        one = start(answer_roll, address, process=1, count=3, seconds=LONG)
        time.sleep(0.05)
        assert not leader.done(), "a stranger counts for nobody"
        other = start(answer_roll, address, process=2, count=3, seconds=LONG)
        assert [process.result(LONG) for process in (leader, one, other)] == [""] * 3


def test_strangers_are_let_go(address: str, start: Start) -> None:
    """Or a scan of ports would use up what a process may have open."""
    leader = start(call_roll, address, count=2, seconds=LONG)
    for words in (b"GET / HTTP/1.1\r\n\r\n", b'{"process": 5, "count": 2}\n', b"quiet"):
        with connect(address) as stranger:
            stranger.sendall(words)
            assert stranger.recv(1) == b""
    start(answer_roll, address, process=1, count=2, seconds=LONG).result(LONG)
    assert leader.result(LONG) == ""


def test_a_port_that_is_taken_is_one_sentence(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        leader = start(call_roll, f"head:{port}", count=2, seconds=LONG)
        assert leader.result(LONG) == (
            f"process 0 cannot listen at port {port} of head:{port}: Address already in use; "
            "choose another port, or end the process that has it"
        )
