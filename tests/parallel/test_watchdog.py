"""A process of its own that hangs, or does not."""

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# By its path, since the package around it loads JAX.
IMPORT = f"""
import runpy, time
Watchdog = runpy.run_path({str(ROOT / "rtdlm/parallel/watchdog.py")!r})["Watchdog"]
"""

HANG = """
import threading

def wait_for_a_device_that_does_not_come():
    threading.Event().wait(60)

with Watchdog(0.5):
    print("entered", flush=True)
    try:
        wait_for_a_device_that_does_not_come()
    finally:
        print("left")
"""

ALIVE = """
with Watchdog(1.0) as watchdog:
    for _ in range(5):
        time.sleep(0.3)
        watchdog.feed()
print("fed")
with Watchdog(0) as watchdog:
    time.sleep(0.1)
    watchdog.feed()
print("without end")
try:
    with Watchdog(0.2):
        raise KeyError
except KeyError:
    pass
time.sleep(0.5)
print("behind it")
"""


def test_a_hang_ends_the_process_and_says_where() -> None:
    command = [sys.executable, "-c", IMPORT + HANG]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "entered\n"
        entered = time.monotonic()
        rest, told = process.communicate(timeout=30)
        seconds = time.monotonic() - entered
    assert (process.returncode, rest) == (1, "")
    assert 0.3 < seconds < 15
    assert "in wait_for_a_device_that_does_not_come\n" in told


def test_it_lives_while_it_is_fed_and_when_nobody_watches() -> None:
    command = [sys.executable, "-c", IMPORT + ALIVE]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.stdout == "fed\nwithout end\nbehind it\n", result.stderr
    assert (result.returncode, result.stderr) == (0, "")
