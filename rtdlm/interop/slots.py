"""Where a tensor of another library's checkpoint goes among our parameters, and back.

A slot pairs one foreign tensor, or an even part of one, with one piece of one of our arrays. The
conversion moves numbers and never changes one, so that importing and exporting again is the
identity.
"""

from collections.abc import Iterable, Mapping
from math import prod
from typing import Any, NamedTuple

import numpy as np

from rtdlm.config import UserError

Arrays = dict[str, np.ndarray]
Shapes = Mapping[str, Mapping[str, Any]]
"""Module path -> parameter name -> something with a `shape`."""


class Slot(NamedTuple):
    """One foreign tensor and one piece of ours."""

    name: str
    """Of the foreign tensor."""
    module: str
    parameter: str
    at: tuple[int, ...] = ()
    """Of the piece: its place along our array's leading axes (round of a loop, expert)."""
    inputs: int = 0
    """How many of the piece's axes are summed over, the first ones; the foreign matrix has them as
    one."""
    turned: bool = False
    """The foreign matrix is [outputs, inputs], as PyTorch's linear layers are."""
    part: tuple[int, int] | None = None
    """(k, n): the k-th of n equal runs of the foreign tensor's last axis; None is all of it."""


def import_tensors(slots: Iterable[Slot], tensors: Mapping[str, np.ndarray], shapes: Shapes) -> Any:
    """Our parameters in float32, from all of `tensors`.

    Raises:
        UserError: a tensor is missing, left over, or of another shape.
    """
    params = {
        module: {name: np.full(leaf.shape, np.nan, np.float32) for name, leaf in leaves.items()}
        for module, leaves in shapes.items()
    }
    used = set()
    for slot in slots:
        if slot.name not in tensors:
            raise UserError(
                f"the checkpoint has no tensor {slot.name!r}, which its config asks for"
            )
        used.add(slot.name)
        array = params[slot.module][slot.parameter]
        piece = array[slot.at]
        found = _part(np.asarray(tensors[slot.name]), slot.part)
        wanted = _foreign_shape(slot, piece.shape)
        if found.shape != wanted:
            raise UserError(
                f"tensor {slot.name!r} has shape {found.shape}, expected {wanted} by the config"
            )
        array[slot.at] = (found.T if slot.turned else found).reshape(piece.shape)
    if left := sorted(set(tensors) - used):
        raise UserError(
            f"the checkpoint has {len(left)} tensors that its config does not explain, such as "
            f"{left[0]!r}"
        )
    return params


def export_tensors(slots: Iterable[Slot], params: Mapping[str, Mapping[str, Any]]) -> Arrays:
    """The foreign tensors, float32, from our parameters."""
    parts: dict[str, dict[int, np.ndarray]] = {}
    for slot in slots:
        piece = np.asarray(params[slot.module][slot.parameter], np.float32)[slot.at]
        shape = _foreign_shape(slot, piece.shape)
        matrix = piece.reshape(shape[::-1]).T if slot.turned else piece.reshape(shape)
        place = 0 if slot.part is None else slot.part[0]
        parts.setdefault(slot.name, {})[place] = matrix
    joined = {
        name: np.concatenate([pieces[k] for k in sorted(pieces)], axis=-1)
        for name, pieces in parts.items()
    }
    return {name: np.ascontiguousarray(array) for name, array in joined.items()}


def _part(tensor: np.ndarray, part: tuple[int, int] | None) -> np.ndarray:
    if part is None or tensor.shape[-1] % part[1]:
        return tensor
    return np.split(tensor, part[1], axis=-1)[part[0]]


def _foreign_shape(slot: Slot, piece: tuple[int, ...]) -> tuple[int, ...]:
    """Of the slot's part of the foreign tensor."""
    if not slot.inputs:
        return (prod(piece),)
    matrix = (prod(piece[: slot.inputs]), prod(piece[slot.inputs :]))
    return matrix[::-1] if slot.turned else matrix
