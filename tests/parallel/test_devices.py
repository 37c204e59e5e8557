"""Which format is the fastest: by the device's kind, its generation and its units."""

from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from rtdlm.parallel import devices, fastest_format

AMX = "processor: 0\nflags\t\t: fpu avx512f amx_bf16 amx_tile\n"
PLAIN = "processor: 0\nflags\t\t: fpu avx512f amx_bf16x\n"


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ({"platform": "tpu"}, "bfloat16"),
        ({"platform": "gpu", "compute_capability": "9.0"}, "bfloat16"),
        ({"platform": "gpu", "compute_capability": "7.5"}, "float32"),
        ({"platform": "gpu", "compute_capability": "gfx942"}, "bfloat16"),
    ],
)
def test_accelerators(
    monkeypatch: pytest.MonkeyPatch, device: dict[str, str], expected: str
) -> None:
    monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(**device)])
    assert fastest_format() == expected


@pytest.mark.parametrize(
    ("said", "count", "expected"),
    [(AMX, 1, "bfloat16"), (AMX, 8, "float32"), (PLAIN, 1, "float32"), (None, 1, "float32")],
)
def test_processors(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: str | None, count: int, expected: str
) -> None:
    file = tmp_path / "cpuinfo"
    if said is not None:
        file.write_text(said)
    monkeypatch.setattr(devices, "PROCESSORS", file)
    monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(platform="cpu")])
    monkeypatch.setattr(jax, "device_count", lambda: count)
    assert fastest_format() == expected
