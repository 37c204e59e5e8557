"""`ScalableMesh`: the devices of a run, arranged as its config says; the face of this room.

    mesh = ScalableMesh(AGIConfig.from_preset("tiny", mesh={"strategy": "fsdp"}))
    print(mesh)    # 8 x cpu: fsdp=8; split over fsdp: parameters, gradients, moments
    state = init_state(model, optimizer, mesh.mesh)
    step = make_train_step(model, optimizer, mesh.mesh)
    state, metrics = step(state, mesh.place(batch), knobs, 0.0)

The same lines run on a laptop and on a slice of hundreds of hosts; only the config differs.
"""

from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rtdlm.config import AGIConfig
from rtdlm.parallel.layout import Layout, layout_of
from rtdlm.parallel.mesh import batch_sharding, check_batch, mesh_of
from rtdlm.parallel.placing import put


class ScalableMesh:
    """Where the arrays of a run lie.

    Attributes:
        mesh: JAX's own, with the axes `data`, `fsdp`, `expert`, `context` and `tensor`.
        layout: what the strategy splits over `fsdp`.
        rows: how a batch lies, `[B, T]`.
        whole: how what every device has lies.
    """

    def __init__(self, config: AGIConfig, devices: Sequence[jax.Device] | None = None) -> None:
        """
        Args:
            config: its strategy, its switches and its mesh axes.
            devices: those to use; None is all, of all hosts.

        Raises:
            UserError: the axes do not multiply to the devices, or a micro-batch does not split.
        """
        self.mesh: Mesh = mesh_of(config, devices)
        check_batch(self.mesh, rows=config.least_rows)
        self.strategy = config.mesh_strategy
        self.layout: Layout = layout_of(self.strategy)
        self.rows = batch_sharding(self.mesh)
        self.whole = NamedSharding(self.mesh, PartitionSpec())

    @property
    def axes(self) -> dict[str, int]:
        """Axis -> devices along it."""
        return dict(self.mesh.shape)

    def place(self, batch: Any) -> Any:
        """A batch of host arrays `[B, T]`, the same on every host, on the devices."""
        return put(batch, self.rows)

    def __str__(self) -> str:
        """One line for a person."""
        devices = f"{self.mesh.size} x {self.mesh.devices.flat[0].device_kind}"
        split = {name: size for name, size in self.axes.items() if size > 1}
        axes = " x ".join(f"{name}={size}" for name, size in split.items()) or "one device"
        if "fsdp" not in split:
            return f"{devices}: {axes}"
        parts = [name for name, there in self.layout._asdict().items() if there]
        return f"{devices}: {axes}; split over fsdp: {', '.join(parts)}"
