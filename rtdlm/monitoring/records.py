"""TensorBoard's event files, written without TensorBoard or a protocol buffer library.

A file is a row of TFRecords, each with one protocol buffer `Event`:

    uint64 length | uint32 CRC of the length | Event | uint32 CRC of the Event

Fields are numbered as in github.com/tensorflow/tensorboard, compat/proto/event.proto and
summary.proto; the checksum is CRC-32C (RFC 3720), masked so that one of a CRC is not trivial.
"""

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

_VARINT, _DOUBLE, _BYTES, _FLOAT = 0, 1, 2, 5  # wire types
_SESSION_START = 1


class EventFile:
    """A new event file. Raises OSError when the disk refuses."""

    def __init__(self, path: Path, *, time: float) -> None:
        self._file = path.open("xb")
        self._write(time, _chunk(3, b"brain.Event:2"))

    def write_start(self, *, time: float, step: int) -> None:
        """The start of a session, which hides what earlier ones wrote from `step` on."""
        self._write(time, _number(2, step) + _chunk(7, _number(1, _SESSION_START)))

    def write_scalars(self, scalars: Mapping[str, float], *, time: float, step: int) -> None:
        """One point of each curve; `time` is in seconds since 1970."""
        with np.errstate(over="ignore"):  # what float32 cannot hold is infinite there
            floats = {name: np.float32(value).tobytes() for name, value in scalars.items()}
        values = (
            _chunk(1, _chunk(1, name.encode()) + _key(2, _FLOAT) + value)
            for name, value in floats.items()
        )
        self._write(time, _number(2, step) + _chunk(5, b"".join(values)))

    def flush(self) -> None:
        """Brings what was written to the operating system, where TensorBoard sees it."""
        self._file.flush()

    def close(self) -> None:
        """Flushes and closes; a second call does nothing."""
        self._file.close()

    def _write(self, time: float, what: bytes) -> None:
        event = _key(1, _DOUBLE) + struct.pack("<d", time) + what
        length = struct.pack("<Q", len(event))
        self._file.write(b"".join((length, _checksum(length), event, _checksum(event))))


def _key(field: int, wire_type: int) -> bytes:
    return _varint(field << 3 | wire_type)


def _number(field: int, value: int) -> bytes:
    return _key(field, _VARINT) + _varint(value)


def _chunk(field: int, data: bytes) -> bytes:
    return _key(field, _BYTES) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the eighth says that more follow."""
    assert value >= 0
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _crc_table() -> tuple[int, ...]:
    table = list(range(256))
    for _ in range(8):
        table = [value >> 1 ^ (0x82F63B78 if value & 1 else 0) for value in table]
    return tuple(table)


_CRC_TABLE = _crc_table()


def _checksum(data: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC_TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    masked = (crc >> 15 | crc << 17) + 0xA282EAD8
    return struct.pack("<I", masked & 0xFFFFFFFF)
