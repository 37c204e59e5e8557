import math
import os
import re
import time
from typing import NamedTuple

import jax
import pytest

from rtdlm.monitoring import Meter, mfu, peak_flops
from rtdlm.monitoring import meter as meter_module
from rtdlm.monitoring.meter import TimeLeft, measure_matmul


class Device(NamedTuple):
    device_kind: str
    platform: str = "gpu"
    process_index: int = 0


def test_utilisation_is_work_over_peak() -> None:
    # PaLM 540B, arXiv 2204.02311, table 3: 238.3k tokens/s on 6144 chips of TPU v4 is 46.2 %;
    # section B: 6 N + 12 L H Q T FLOP a token.
    flops_per_token = 6 * 540.35e9 + 12 * 118 * 48 * 256 * 2048
    utilisation = mfu(
        tokens_per_second=238.3e3, flops_per_token=flops_per_token, peak_flops=6144 * 275e12
    )
    assert round(utilisation, 3) == 0.462


def test_throughput_over_a_sliding_window() -> None:
    meter = Meter(flops_per_token=10.0, peak_flops=4000.0, window=4.0)
    updates = [(1.0, 100), (2.0, 200), (4.0, 600), (5.0, 800), (7.0, 900), (20.0, 1000)]
    rates = [meter.update(seconds=s, tokens=t)["tokens_per_second"] for s, t in updates]
    assert rates == [
        100 / 1,  # from the start
        200 / 2,
        600 / 4,
        700 / 4,  # from 1 s on: a mark exactly at the window's edge is the first
        700 / 5,  # from 2 s on: the window starts between two marks
        100 / 13,  # a slow step is compared to the one before it
    ]


def test_utilisation_of_the_window() -> None:
    meter = Meter(flops_per_token=10.0, peak_flops=4000.0)
    assert meter.update(seconds=2.0, tokens=300) == {"tokens_per_second": 150.0, "mfu": 0.375}


def test_a_resumed_run_counts_from_where_it_was() -> None:
    meter = Meter(flops_per_token=1.0, peak_flops=1.0, seconds=100.0, tokens=5000)
    assert meter.update(seconds=102.0, tokens=5300)["tokens_per_second"] == 150.0


def test_time_left_follows_the_pace() -> None:
    left = TimeLeft(window=10.0)
    marks = [(0.0, 0.1), (5.0, 0.2), (10.0, 0.3), (15.0, 0.35), (20.0, 0.4)]
    found = [left.update(now=now, done=done) for now, done in marks]
    assert found == pytest.approx([None, 40.0, 35.0, 0.65 * 10 / 0.15, 60.0])


def test_time_left_never_guesses() -> None:
    left = TimeLeft()
    assert left.update(now=0.0, done=0.5) is None
    assert left.update(now=9.0, done=0.5) is None
    assert left.update(now=10.0, done=1.5) == 0.0


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("TPU v4", 275e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5e", 197e12),
        ("TPU v5", 459e12),
        ("TPU v5p", 459e12),
        ("TPU v6 lite", 918e12),
        ("TPU v6e", 918e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A100 80GB PCIe", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA GH200 480GB", 989e12),
    ],
)
def test_the_peak_of_known_devices(kind: str, peak: float) -> None:
    found = peak_flops([Device(kind)] * 8, compute="float32")  # type: ignore[list-item]
    assert found == (8 * peak, f"8 x {kind}, bfloat16, data sheet")


@pytest.mark.parametrize("kind", ["NVIDIA RTX A1000", "NVIDIA L4", "TPU v7x"])
def test_the_peak_of_unknown_devices_is_measured(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    asked = []
    monkeypatch.setattr(
        meter_module, "measure_matmul", lambda *args, **kwargs: asked.append((args, kwargs)) or 7.0
    )
    found = peak_flops([Device(kind)] * 2, compute="float32")  # type: ignore[list-item]
    assert found.flops == 14.0
    assert re.fullmatch(f"measured on {kind}: .* bfloat16 products of 8192 x 8192", found.source)
    clock = time.perf_counter
    assert asked == [((Device(kind),), {"size": 8192, "dtype": "bfloat16", "clock": clock})]


def test_fake_cpu_devices_share_one_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter_module, "measure_matmul", lambda *args, **kwargs: 7.0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 2, 5})
    devices = [Device("cpu", "cpu", host) for host in (0, 0, 0, 1, 1, 1)]
    one, two = (peak_flops(host, compute="float32").flops for host in (devices[:3], devices))  # type: ignore[arg-type]
    assert (one, two) == (3 * 7.0, 2 * 3 * 7.0)


@pytest.mark.parametrize(
    ("compute", "measured"),
    [("float32", "float32"), ("bfloat16", "bfloat16"), ("float16", "float32")],
)
def test_a_processors_peak_is_that_of_the_runs_format(
    monkeypatch: pytest.MonkeyPatch, compute: str, measured: str
) -> None:
    asked = []
    monkeypatch.setattr(
        meter_module, "measure_matmul", lambda *args, **kwargs: asked.append(kwargs["dtype"]) or 7.0
    )
    found = peak_flops([Device("cpu", "cpu", 0)], compute=compute)  # type: ignore[list-item]
    assert asked == [measured]
    assert f"{measured} products" in found.source


def test_the_measurement_is_of_this_machine() -> None:
    clock = time.process_time
    measured = measure_matmul(jax.devices()[0], size=256, dtype="float32", clock=clock, repeats=3)
    # One core at 1 GHz without vector units, and a thousand cores with them.
    assert 1e8 < measured < 1e15
    assert math.isfinite(measured)
