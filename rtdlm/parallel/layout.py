"""What a strategy splits over the axis `fsdp` (ZeRO, arXiv 1910.02054)."""

from typing import NamedTuple

from rtdlm.config.mesh import MeshStrategy


class Layout(NamedTuple):
    """Which arrays lie in parts on `fsdp`; the others are whole on each of its devices."""

    parameters: bool
    gradients: bool
    moments: bool


_LAYOUTS: dict[str, Layout] = {
    "zero1": Layout(parameters=False, gradients=False, moments=True),
    "zero2": Layout(parameters=False, gradients=True, moments=True),
}


def layout_of(strategy: MeshStrategy | None) -> Layout:
    """What `strategy` splits; all of it where it says nothing."""
    return _LAYOUTS.get(strategy or "", Layout(parameters=True, gradients=True, moments=True))
