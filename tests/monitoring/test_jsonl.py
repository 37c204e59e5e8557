import json
import math
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtdlm.config.errors import StorageError, UserError
from rtdlm.monitoring import (
    CheckpointSaved,
    EvalFinished,
    Event,
    JsonlSink,
    Notice,
    RunFinished,
    StepFinished,
)
from rtdlm.monitoring.jsonl import decode, encode, read_events, truncate_after
from tests.monitoring.runs import started, step, whole_run

ROOT = Path(__file__).resolve().parents[2]


def write(path: Path, events: list[Event], *, every: int = 1) -> None:
    sink = JsonlSink(path, every=every)
    for event in events:
        sink(event)
    sink.close()


LINES: list[tuple[Event, str]] = [
    (
        StepFinished(7, {"loss": 0.1 + 0.2, "mfu": 0.5}, seconds=3.5, tokens=14336),
        '{"kind":"train","step":7,"seconds":3.5,"tokens":14336,"loss":0.30000000000000004,"mfu":0.5}',
    ),
    (
        EvalFinished(10, {"loss": 2.5, "worst": math.inf}, is_best=True),
        '{"kind":"eval","step":10,"is_best":true,"loss":2.5,"worst":"Infinity"}',
    ),
    (
        CheckpointSaved(10, "runs/é/step_00000010", best=False),
        '{"kind":"checkpoint","step":10,"path":"runs/\\u00e9/step_00000010","best":false}',
    ),
    (
        Notice(3, "warning", 'a "quoted"\nline'),
        '{"kind":"notice","step":3,"level":"warning","message":"a \\"quoted\\"\\nline"}',
    ),
    (
        RunFinished(10, "all done", {"loss": -math.inf}, None),
        '{"kind":"finish","step":10,"reason":"all done","summary":{"loss":"-Infinity"},'
        '"sample":null}',
    ),
]


@pytest.mark.parametrize(("event", "line"), LINES)
def test_an_event_is_this_line(event: Event, line: str) -> None:
    assert encode(event) == line
    assert decode(line) == event


@pytest.mark.parametrize("event", whole_run())
def test_every_event_reads_back_equal(event: Event) -> None:
    assert decode(encode(event)) == event


@given(st.floats(width=64) | st.floats(width=32))
def test_a_float_reads_back_bitwise(value: float) -> None:
    back = decode(encode(StepFinished(1, {"loss": value}, seconds=1.0, tokens=1)))
    assert isinstance(back, StepFinished)
    if math.isnan(value):
        assert math.isnan(back.metrics["loss"])
    else:
        assert struct.pack("d", back.metrics["loss"]) == struct.pack("d", value)


def test_lines_are_strict_json() -> None:
    line = encode(StepFinished(1, {"loss": math.nan}, seconds=1.0, tokens=1))
    parsed = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert parsed["loss"] == "NaN"


@pytest.mark.parametrize("name", ["step", "seconds", "tokens", "kind", "metrics"])
def test_a_metric_cannot_hide_a_field(name: str) -> None:
    with pytest.raises(ValueError, match=f"a metric cannot be named '{name}'"):
        encode(StepFinished(1, {name: 1.0}, seconds=1.0, tokens=1))


def test_the_file_holds_the_run(tmp_path: Path) -> None:
    write(tmp_path / "out" / "metrics.jsonl", whole_run()[:5])
    assert (tmp_path / "out" / "metrics.jsonl").read_text() == (
        '{"kind":"start","time":1800000000.5,"command":"python -m rtdlm.train --preset tiny '
        '--text shakespeare.txt --out runs/tiny","config":{"preset":"tiny","optimizer":"muon",'
        '"batch":{"rows":8,"tokens":2048}},"parameters":{"total":10236160,"non_embedding":6041856},'
        '"devices":"2 x cpu","tokens_per_step":2048,"flops_per_token":60000000.0,'
        '"peak_flops":120000000000.0,"peak_source":"measured","total_steps":4,"max_seconds":null,'
        '"resumed_from":null,"started_from":null}\n'
        '{"kind":"train","step":1,"seconds":2.0,"tokens":2048,"loss":8.0,"learning_rate":0.001}\n'
        '{"kind":"train","step":2,"seconds":4.0,"tokens":4096,"loss":7.0,"learning_rate":0.002}\n'
        '{"kind":"eval","step":2,"is_best":true,"loss":7.25,"top1_accuracy":0.125}\n'
        '{"kind":"checkpoint","step":2,"path":"runs/tiny/checkpoints/step_00000002","best":true}\n'
    )


@pytest.mark.parametrize(
    ("every", "steps"), [(1, [1, 2, 3, 4, 5, 6, 7]), (2, [1, 2, 4, 6]), (5, [1, 5]), (9, [1])]
)
def test_train_lines_come_every_few_steps(tmp_path: Path, every: int, steps: list[int]) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, [started(), *(step(number) for number in range(1, 8))], every=every)
    found = [event.step for event in read_events(path) if isinstance(event, StepFinished)]
    assert found == steps


def test_a_resumed_run_leaves_the_file_of_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, resumed = tmp_path / "whole.jsonl", tmp_path / "resumed.jsonl"
    write(whole, [started(), *(step(number) for number in range(1, 9))])
    write(resumed, [started(), *(step(number) for number in range(1, 7))])
    with resumed.open("a") as file:
        file.write('{"kind":"train","step":7,"sec')  # the kill came here
    restart = started(resumed_from=4)
    write(resumed, [restart, *(step(number) for number in range(5, 9))])
    lines = whole.read_text().splitlines()
    assert resumed.read_text().splitlines() == [*lines[:5], encode(restart), *lines[5:]]


def test_a_new_run_begins_the_file_anew(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, whole_run())
    write(path, [started(), step(1)])
    assert list(read_events(path)) == [started(), step(1)]


@pytest.mark.parametrize(
    ("last", "kept"),
    [(0, 1), (1, 2), (2, 6), (3, 10), (4, 14), (99, 14)],
)
def test_truncation_keeps_what_came_first(tmp_path: Path, last: int, kept: int) -> None:
    path = tmp_path / "metrics.jsonl"
    events = whole_run()
    write(path, events)
    before = path.read_bytes().splitlines(keepends=True)
    truncate_after(path, last)
    assert path.read_bytes() == b"".join(before[:kept])
    assert [item.name for item in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize("cut", [1, 20, 70])
def test_a_line_cut_short_does_not_count(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, [started(), step(1), step(2)])
    path.write_bytes(path.read_bytes()[:-cut])
    assert list(read_events(path)) == [started(), step(1)]
    truncate_after(path, 2)
    assert path.read_text() == f"{encode(started())}\n{encode(step(1))}\n"


@pytest.mark.parametrize("bad", ["", "[1]", "{}", '{"kind":"other"}', '{"kind":"train"}', "\x00"])
def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f"{encode(started())}\n{bad}\n{encode(step(1))}\n")
    with pytest.raises(UserError) as error:
        list(read_events(path))
    assert str(error.value) == (
        f"line 2 of {path} is not a line of metrics ({bad!r}); delete that line and try again"
    )


KILLED = """
import os, pathlib, signal, sys
from rtdlm.monitoring import JsonlSink
from tests.monitoring.runs import started, step
sink = JsonlSink(pathlib.Path(sys.argv[1]))
sink(started())
for number in range(1, 101):
    sink(step(number))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_loses_no_line_that_was_written(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    result = subprocess.run([sys.executable, "-c", KILLED, str(path)], cwd=ROOT)
    assert result.returncode == -signal.SIGKILL
    assert list(read_events(path)) == [started(), *(step(number) for number in range(1, 101))]


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.jsonl"
    sink = JsonlSink(path)
    sink(started())
    before = path.read_bytes()

    class Full:
        def __getattr__(self, name: str) -> Any:
            raise OSError(28, os.strerror(28))

    monkeypatch.setattr(sink, "_file", Full())
    with pytest.raises(StorageError) as error:
        sink(step(1))
    assert str(error.value) == (
        f"{path} could not be written: No space left on device; make room or choose another "
        "directory; what was written before is intact"
    )
    assert path.read_bytes() == before
    monkeypatch.undo()
    sink.close()
