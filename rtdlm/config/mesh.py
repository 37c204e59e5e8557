"""How a run's devices are arranged, and what a strategy splits over them."""

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Literal

from rtdlm.config.effect import require

if TYPE_CHECKING:
    from rtdlm.config.agi import AGIConfig

MeshStrategy = Literal["pmap", "data", "zero1", "zero2", "fsdp", "tensor", "combined", "auto"]
AXES = ("data", "fsdp", "expert", "context", "tensor")
GROWS: dict[str, str] = {
    "pmap": "data",
    "data": "data",
    "zero1": "fsdp",
    "zero2": "fsdp",
    "fsdp": "fsdp",
    "tensor": "tensor",
    "combined": "data",
}
"""The axis that takes the devices which no other axis names."""
UNSHARED = ("pmap", "data")
"""Strategies under which every device has all of the parameters."""
MOST_TENSOR = 8
"""Devices of one host on the usual machines: what `tensor` moves must not leave it."""


@dataclass(frozen=True)
class MeshConfig:
    """How devices are arranged; the product of the axes is the device count."""

    strategy: MeshStrategy | None = None
    """Which axis takes the devices that no other axis names, and what lies on `fsdp`: `data`
    repeats everything, `zero1` splits the optimizer's moments, `zero2` gradients too, `fsdp`
    parameters too (arXiv 1910.02054); `tensor` splits heads, hidden features and the vocabulary
    (arXiv 1909.08053), `combined` is `data` x `tensor`; `pmap` is `data` with a sum of gradients
    written out; `auto` takes the one that is estimated to be fastest of those that fit. None is
    `fsdp` for what the axis `fsdp` has, and `data` for the rest."""
    data: int = -1
    """Devices over which batches split and parameters repeat; -1 takes what is left [devices]."""
    fsdp: int = 1
    """Devices over which batches, parameters and optimizer state split [devices]."""
    expert: int = 1
    """Devices over which batches and experts split; tokens travel to their experts [devices]."""
    context: int = 1
    """Devices over which the tokens of a row split, under `attention_type=ring` [devices]."""
    tensor: int = 1
    """Devices over which heads, hidden features and the vocabulary split [devices]."""

    def __post_init__(self) -> None:
        for name in AXES:
            size = getattr(self, name)
            require(
                size >= 1 or (name == "data" and size == -1),
                f"mesh.{name}={size} must be at least 1"
                + (" (or -1 for what is left)" if name == "data" else ""),
            )
        for name in UNSHARED:
            require(
                self.strategy != name or self.fsdp == 1,
                f"mesh.fsdp={self.fsdp} has no effect with mesh.strategy={name!r}, which splits no "
                "parameters; use mesh.strategy=fsdp or remove mesh.fsdp",
            )
        others = [name for name in AXES if name != "data" and getattr(self, name) > 1]
        require(
            self.strategy not in ("pmap", "auto") or not others,
            f"mesh.strategy={self.strategy!r} cannot be combined with "
            f"{', '.join(f'mesh.{name}={getattr(self, name)}' for name in others)}: it "
            "arranges all devices itself; remove one of them",
        )


def mesh_strategy(config: "AGIConfig") -> MeshStrategy | None:
    """`mesh.strategy` after the switches `distributed_training` and `tensor_parallel`."""
    if config.distributed_training and config.tensor_parallel:
        return "combined"
    if config.tensor_parallel:
        return "tensor"
    return "data" if config.distributed_training else config.mesh.strategy


def resolve_mesh(config: "AGIConfig", num_devices: int) -> MeshConfig:
    """The mesh of `config` with a number for every axis, and the strategy that counts.

    The product is `num_devices` only if the axes fit; whoever makes the mesh says so if not.
    Under `combined` without `mesh.tensor` a layer is split over the most devices, up to a host's
    eight, that divide them all and the heads of keys and values.

    Raises:
        UserError: the strategy is `auto`, which needs estimates.
    """
    strategy = config.mesh_strategy
    require(strategy != "auto", "mesh.strategy='auto' is decided when a run starts; name another")
    sizes = {name: getattr(config.mesh, name) for name in AXES}
    if strategy == "combined" and sizes["tensor"] == 1:
        ways = range(1, MOST_TENSOR + 1)
        sizes["tensor"] = max(n for n in ways if num_devices % n == 0 and config.kv_heads % n == 0)
    grows = "data" if strategy is None else GROWS[strategy]
    if grows != "data" and sizes[grows] == 1:
        sizes["data"] = max(1, sizes["data"])
        sizes[grows] = max(1, num_devices // prod(sizes.values()))
    if sizes["data"] == -1:
        # Where not even one is left it stays -1: what was asked for is what is told not to fit.
        sizes["data"] = num_devices // prod(size for size in sizes.values() if size > 0) or -1
    return MeshConfig(strategy=strategy, **sizes)
