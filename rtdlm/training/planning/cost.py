"""What a step costs each device: arithmetic, memory traffic, and what there is of memory."""

import os

from rtdlm.config import AGIConfig
from rtdlm.models.cost import count_parameters, train_flops_per_token
from rtdlm.parallel.slices import Slice
from rtdlm.training.planning.communication import FLOAT
from rtdlm.training.planning.memory import ModelMemory

GIB = 2**30


def resolved(config: AGIConfig, devices: Slice) -> AGIConfig:
    """`config` with what `precision.compute=auto` is on `devices`, which are not this process's."""
    if config.precision.compute != "auto":
        return config
    return config.replace(precision={"compute": devices.compute})


def step_flops(config: AGIConfig) -> float:
    """The model's own arithmetic in one step, over all devices [FLOP]."""
    return float(train_flops_per_token(config)) * config.batch_size * config.max_seq_len


def recomputed_share(config: AGIConfig) -> float:
    """What the backward pass computes again, as a share of the model's own arithmetic.

    A forward pass is a third of it; `dots` keeps the products, of which nearly all of it is made.
    """
    return 1 / 3 if config.remat in ("full", "named") else 0.0


def memory_traffic(config: AGIConfig, estimate: ModelMemory, *, axes: dict[str, int]) -> float:
    """What one device at least reads from and writes to its memory in a step [bytes].

    Parameters and moments are read and written once by the optimizer, gradients written once and
    read twice; weights are read in each pass as they are stored; activations are written and read.
    """
    passes = (2 + (config.remat in ("full", "named"))) * config.accumulate_steps
    whole = FLOAT * count_parameters(config).total / axes["tensor"]
    return (
        2 * (estimate.parameters + estimate.optimizer)
        + 3 * estimate.gradients
        + passes * whole
        + 2 * estimate.activations * config.accumulate_steps
    )


def memory_limit(devices: Slice) -> float:
    """What one device has; processors share what the machine has [bytes]."""
    if devices.accelerator.memory is not None:
        return devices.accelerator.memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / devices.count
