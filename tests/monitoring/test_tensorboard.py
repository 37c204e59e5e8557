import os
import struct
from pathlib import Path
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event as Record
from tensorboardX.proto.event_pb2 import SessionLog

from rtdlm.config.errors import StorageError
from rtdlm.monitoring import TensorBoardSink
from rtdlm.monitoring.records import EventFile
from tests.monitoring.runs import started, step, whole_run


def crc32c(data: bytes) -> int:
    """CRC-32C bit by bit (RFC 3720, appendix B.4), masked as TFRecord does."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def records(path: Path) -> list[Any]:
    """The records of one event file, with every checksum checked."""
    data, found = path.read_bytes(), []
    while data:
        length, length_crc = struct.unpack("<QI", data[:12])
        body, body_crc = data[12 : 12 + length], data[12 + length : 16 + length]
        assert length_crc == crc32c(data[:8])
        assert struct.unpack("<I", body_crc)[0] == crc32c(body)
        found.append(Record.FromString(body))
        data = data[16 + length :]
    return found


def session(directory: Path, events: list[Any]) -> list[Any]:
    before = set(directory.glob("*"))
    sink = TensorBoardSink(directory)
    for event in events:
        sink(event)
    sink.close()
    (path,) = set(directory.glob("*")) - before
    assert path.name.startswith("events.out.tfevents.")
    return records(path)


def test_scalars_of_steps_and_evaluations(tmp_path: Path) -> None:
    version, start, *rest = session(tmp_path, whole_run()[:5])
    assert version.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (1, SessionLog.START)
    found = [(r.step, [(v.tag, round(v.simple_value, 6)) for v in r.summary.value]) for r in rest]
    assert found == [
        (1, [("train/loss", 8.0), ("train/learning_rate", 0.001)]),
        (2, [("train/loss", 7.0), ("train/learning_rate", 0.002)]),
        (2, [("eval/loss", 7.25), ("eval/top1_accuracy", 0.125)]),
    ]


def test_a_resumed_session_purges_what_it_does_again(tmp_path: Path) -> None:
    session(tmp_path, [started(), step(1), step(2), step(3)])
    _, start, point = session(tmp_path, [started(resumed_from=2), step(3)])
    assert (start.step, start.session_log.status) == (3, SessionLog.START)
    assert point.step == 3


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = TensorBoardSink(tmp_path / "tensorboard")
    sink(started())

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(EventFile, "write_scalars", refuse)
    with pytest.raises(StorageError) as error:
        sink(step(1))
    assert str(error.value) == (
        f"{tmp_path}/tensorboard could not be written: No space left on device; make room or "
        "choose another directory; what was written before is intact"
    )
    sink.close()


def test_closing_before_the_start_is_nothing(tmp_path: Path) -> None:
    TensorBoardSink(tmp_path).close()
    assert list(tmp_path.iterdir()) == []
