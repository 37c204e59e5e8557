"""Which format is the fastest: by the device's kind, its generation and its units."""

from pathlib import Path
from types import SimpleNamespace

import jax
import pytest
from jax.sharding import AbstractDevice, AbstractMesh

from rtdlm.parallel import devices, fastest_format, target_platform

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


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="there is an accelerator")
def test_a_program_is_for_the_meshs_devices() -> None:
    assert target_platform() == "cpu"
    tpu = AbstractDevice("TPU v5 lite", 1, "tpu")
    for mesh, platform in (
        (AbstractMesh((4,), ("data",), abstract_device=tpu), "tpu"),
        (AbstractMesh((4,), ("data",)), "cpu"),
    ):
        with jax.sharding.use_abstract_mesh(mesh):
            assert target_platform() == platform
