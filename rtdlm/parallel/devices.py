"""What the devices of this process are good at."""

import jax

# First NVIDIA generation with bfloat16 units (Ampere).
BFLOAT16_CAPABILITY = 8.0


def fastest_format() -> str:
    """The name of the number format in which matrix products run fastest with enough range.

    That is bfloat16 on TPUs, on NVIDIA GPUs since Ampere and on AMD's, and float32 on processors.
    Those with AMX take a bfloat16 step in about half the time, but that has not been measured over
    whole runs yet; until it is, `precision.compute=bfloat16` has to ask for it.
    """
    device = jax.devices()[0]
    if device.platform == "cpu":
        return "float32"
    capability = getattr(device, "compute_capability", None)
    try:
        old = capability is not None and float(capability) < BFLOAT16_CAPABILITY
    except ValueError:  # AMD's is a name, such as gfx942
        old = False
    return "float32" if old else "bfloat16"
