"""What the devices of this process are good at."""

from pathlib import Path

import jax

CPU_INFO = Path("/proc/cpuinfo")
# First NVIDIA generation with bfloat16 units (Ampere).
BFLOAT16_CAPABILITY = 8.0


def fastest_format() -> str:
    """The name of the number format in which matrix products run fastest with enough range.

    That is bfloat16 where there are units for it: TPUs, NVIDIA GPUs since Ampere, AMD's, and x86
    processors with AMX, on which this project measured it (docs/performance.md). AVX512-BF16 alone
    is not counted: whether it pays was not measured.
    """
    device = jax.devices()[0]
    if device.platform == "cpu":
        return "bfloat16" if _has_amx() else "float32"
    capability = getattr(device, "compute_capability", None)
    try:
        old = capability is not None and float(capability) < BFLOAT16_CAPABILITY
    except ValueError:  # AMD's is a name, such as gfx942
        old = False
    return "float32" if old else "bfloat16"


def _has_amx() -> bool:
    try:
        return "amx_bf16" in CPU_INFO.read_text(encoding="utf-8").split()
    except OSError:  # not on Linux
        return False
