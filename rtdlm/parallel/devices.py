"""What devices a program is for, and what those of this process are good at."""

from pathlib import Path

import jax

# First NVIDIA generation with bfloat16 units (Ampere).
BFLOAT16_CAPABILITY = 8.0
PROCESSORS = Path("/proc/cpuinfo")


def fastest_format() -> str:
    """The name of the number format in which matrix products run fastest with enough range.

    That is bfloat16 on TPUs, on NVIDIA GPUs since Ampere and on AMD's, and on a processor with
    AMX; on other processors, and on one that plays several devices, it is float32. (Over several
    devices XLA keeps the products of a weight's gradient from AMX; see `primitives.product`.)
    """
    device = jax.devices()[0]
    if device.platform == "cpu":
        return "bfloat16" if jax.device_count() == 1 and _has_amx() else "float32"
    capability = getattr(device, "compute_capability", None)
    try:
        old = capability is not None and float(capability) < BFLOAT16_CAPABILITY
    except ValueError:  # AMD's is a name, such as gfx942
        old = False
    return "float32" if old else "bfloat16"


def target_platform() -> str:
    """`tpu`, `gpu` or `cpu`: what the program that is being traced will run on.

    The mesh says it, whose devices need not be here (`rtdlm.parallel.slices`); else it is the
    default device.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return str(jax.devices()[0].platform if device is None else device.platform)


def _has_amx() -> bool:
    """Whether the processor multiplies bfloat16 tiles; known on Linux only."""
    try:
        lines = PROCESSORS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    return any(line.startswith("flags") and "amx_bf16" in line.split() for line in lines)
