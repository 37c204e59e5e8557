"""Devices that a run is planned for, without having any: `v5e:4x4`, `h100:16`, `cpu:8`.

A TPU slice is compiled for by the TPU's own compiler, from the `libtpu` package, which needs no
TPU. GPUs and processors are played by fake CPU devices: XLA's partitioner is the same, what follows
it is the CPU's.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from math import prod
from typing import Any

import jax
from jax.experimental import topologies

from rtdlm.config import UserError
from rtdlm.parallel.accelerators import NAMES, Accelerator, by_device_kind, by_name

MAX_DEVICES = 16_384
EXAMPLES = "v5e:4x4, v5p:4x4x4, h100:16 or cpu:8"
LIBTPU = "`pip install 'rtdlm[tpu]'`, which needs no TPU"

# Natural shapes for a bare number of TPU chips, such as v5e:16: as square as they are sold.
_SHAPES_2D = {1: (1, 1), 4: (2, 2), 8: (2, 4), 16: (4, 4), 32: (4, 8), 64: (8, 8), 128: (8, 16),
              256: (16, 16)}  # fmt: skip
_SHAPES_3D = {4: (2, 2, 1), 8: (2, 2, 2), 16: (2, 2, 4), 32: (2, 4, 4), 64: (4, 4, 4),
              128: (4, 4, 8), 256: (4, 8, 8), 512: (8, 8, 8), 1024: (8, 8, 16),
              2048: (8, 16, 16), 4096: (16, 16, 16)}  # fmt: skip


@dataclass(frozen=True)
class Slice:
    """Devices of one kind."""

    accelerator: Accelerator
    shape: tuple[int, ...]
    """Chips along each dimension of a TPU's torus; of others, their number."""

    def __str__(self) -> str:
        return f"{self.accelerator.name}:{'x'.join(map(str, self.shape))}"

    @property
    def count(self) -> int:
        """Devices."""
        return prod(self.shape)

    @property
    def compute(self) -> str:
        """What `precision.compute=auto` is there; see `fastest_format`."""
        return "float32" if self.accelerator.platform == "cpu" else "bfloat16"

    @property
    def compiled_by(self) -> str:
        """The compiler whose count of memory a plan shows."""
        if self.accelerator.platform == "tpu":
            return "XLA's TPU compiler"
        fake = f"XLA's CPU compiler, on {self.count} fake devices"
        return fake if self.accelerator.platform == "cpu" else f"{fake} in place of GPUs"


def parse_slice(text: str) -> Slice:
    """The devices that `text` names.

    Raises:
        UserError: no such kind, or no such number or shape of its devices.
    """
    name, colon, size = text.partition(":")
    accelerator = by_name(name.strip().lower())
    if accelerator is None:
        raise UserError(
            f"--devices {text!r} names no kind that is known; kinds are {', '.join(NAMES)}, and "
            f"devices are written like {EXAMPLES}"
        )
    if not colon or not re.fullmatch(r"[1-9]\d{0,5}(x[1-9]\d{0,5}){0,2}", size.strip(), re.ASCII):
        raise UserError(
            f"--devices {text!r} has no number or shape of {accelerator.name} devices after a "
            f"colon; write them like {EXAMPLES}"
        )
    shape = tuple(map(int, size.strip().split("x")))
    if accelerator.torus:
        shape = _torus(text, accelerator, shape)
    elif len(shape) > 1:
        raise UserError(
            f"--devices {text!r} has a shape, but {accelerator.name} devices form no torus; give "
            f"their number, {accelerator.name}:{prod(shape)}"
        )
    if prod(shape) > MAX_DEVICES:
        raise UserError(
            f"--devices {text!r} is {prod(shape):,} devices; give at most {MAX_DEVICES:,}"
        )
    return Slice(accelerator, shape)


def slice_of(devices: Sequence[jax.Device]) -> Slice:
    """Devices that are here, as a slice; those of no listed kind say what memory they have."""
    first = devices[0]
    found = by_device_kind(first.device_kind)
    if found is None:
        platform: Any = first.platform if first.platform in ("tpu", "gpu") else "cpu"
        told = first.memory_stats() or {}
        limit = told.get("bytes_limit")
        memory = None if limit is None else float(limit)
        found = Accelerator(first.device_kind, platform, (), {}, memory, None, None)
    return Slice(found, (len(devices),))


def slice_devices(chosen: Slice) -> list[jax.Device]:
    """Devices to make a mesh of, on which programs can be compiled and not run.

    Fake CPU devices are made when JAX first looks for devices, so that this must be called before
    anything else that does, once a process (a smaller number may follow).

    Raises:
        UserError: the TPU's compiler is not installed or has no such slice, or JAX has started
            with fewer devices.
    """
    if chosen.accelerator.platform == "tpu":
        return _tpu_devices(chosen)
    fake_devices(chosen.count)
    devices = jax.devices("cpu")
    if len(devices) < chosen.count:
        raise UserError(
            f"{chosen} needs {chosen.count} fake devices and this process has {len(devices)}; plan "
            "it in a fresh process"
        )
    return list(devices[: chosen.count])


def fake_devices(count: int) -> None:
    """Asks JAX to plan on the processor, with at least `count` fake devices; no accelerator is
    touched.

    Nothing changes in a process in which JAX has started.
    """
    from jax._src import xla_bridge  # has no public name yet

    if not xla_bridge.backends_are_initialized():
        jax.config.update("jax_platforms", "cpu")
        asked: Any = jax.config  # whose type names none of its settings
        jax.config.update("jax_num_cpu_devices", max(count, asked.jax_num_cpu_devices))


def _torus(text: str, accelerator: Accelerator, shape: tuple[int, ...]) -> tuple[int, ...]:
    shapes = _SHAPES_2D if accelerator.torus == 2 else _SHAPES_3D
    if len(shape) == 1 and shape[0] in shapes:
        return shapes[shape[0]]
    if len(shape) != accelerator.torus:
        known = ", ".join("x".join(map(str, known)) for known in shapes.values())
        raise UserError(
            f"--devices {text!r} is no slice of {accelerator.name}, whose chips form a torus of "
            f"{accelerator.torus} dimensions; usual shapes are {known}"
        )
    return shape


def _tpu_devices(chosen: Slice) -> list[jax.Device]:
    # Off a TPU host, libtpu would ask the cloud's metadata server who it is, and complain.
    for name, value in (
        ("TPU_SKIP_MDS_QUERY", "1"),
        # Else one process at a time may load it, since one may have the TPU; here none has.
        ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1"),
        ("TPU_MIN_LOG_LEVEL", "4"),
        ("TPU_STDERR_LOG_LEVEL", "4"),
        ("TPU_LOG_DIR", "disabled"),
        ("TPU_ACCELERATOR_TYPE", f"{chosen.accelerator.name}-{chosen.count}"),
        ("TPU_WORKER_HOSTNAMES", "localhost"),
    ):
        os.environ.setdefault(name, value)
    fake_devices(1)
    # One device a chip, and the whole of a slice that is smaller than a host.
    options: dict[str, Any] = (
        {"chip_config_name": "megacore"} if chosen.accelerator.name == "v4" else {}
    )
    if chosen.count == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=str(chosen), **options)
    except Exception as error:  # libtpu's own errors share no type
        told = " ".join(str(error).split())
        if find_spec("libtpu") is None:
            raise UserError(
                f"--devices {chosen} needs libtpu to compile for, which is not here; install it "
                f"with {LIBTPU}, or plan for cpu:{chosen.count}"
            ) from None
        raise UserError(
            f"--devices {chosen} is no slice to the TPU's compiler ({told[:200]}); choose a shape "
            "that is sold"
        ) from None
    return list(found.devices)
