"""Real signals to a real process: the first asks, the second acts."""

import signal
import subprocess
import sys

import pytest

CHILD = """
import signal, sys, time
from rtdlm.training.stop import StopRequest

# A process that a shell started in the background ignores Ctrl-C; this one shall not.
signal.signal(signal.SIGINT, signal.default_int_handler)
with StopRequest() as stop:
    print("ready", flush=True)
    while not stop.requested:
        time.sleep(0.01)
    print("asked by", stop.requested, flush=True)
    for line in sys.stdin:
        if line == "leave\\n":
            break
print("left in order", flush=True)
for line in sys.stdin:
    pass
"""


@pytest.fixture
def child() -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def said(child: "subprocess.Popen[str]") -> str:
    assert child.stdout is not None
    return child.stdout.readline()


def tell(child: "subprocess.Popen[str]", line: str) -> None:
    assert child.stdin is not None
    child.stdin.write(line + "\n")
    child.stdin.flush()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_only_asks(child: "subprocess.Popen[str]", number: signal.Signals) -> None:
    child.send_signal(number)
    assert said(child) == f"asked by {number.name}\n"
    tell(child, "leave")
    assert said(child) == "left in order\n"
    assert child.stdin is not None
    child.stdin.close()
    assert child.wait(timeout=10) == 0


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_of_either_kind_acts(
    child: "subprocess.Popen[str]", first: signal.Signals, second: signal.Signals
) -> None:
    child.send_signal(first)
    assert said(child) == f"asked by {first.name}\n"
    child.send_signal(second)
    assert child.wait(timeout=10) == -second


def test_afterwards_a_signal_acts_as_before(child: "subprocess.Popen[str]") -> None:
    child.send_signal(signal.SIGTERM)
    said(child)
    tell(child, "leave")
    assert said(child) == "left in order\n"
    child.send_signal(signal.SIGTERM)
    assert child.wait(timeout=10) == -signal.SIGTERM
