"""One process's part of the eight devices of a test, as though others had the rest."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding

Index = tuple[slice, ...]


class Part:
    """A sharding of which this process has the devices from `first` to before `last`."""

    is_fully_addressable = False

    def __init__(self, sharding: NamedSharding, first: int, last: int) -> None:
        self._sharding = sharding
        self._own = set(list(sharding.mesh.devices.flat)[first:last])

    def addressable_devices_indices_map(self, shape: tuple[int, ...]) -> Mapping[Any, Index]:
        found = self._sharding.devices_indices_map(shape)
        return {device: index for device, index in found.items() if device in self._own}


class Placed:
    """What a process put on its devices."""

    def __init__(self, shape: tuple[int, ...], sharding: Any, read: Callable[[Index], Any]) -> None:
        self.shape = shape
        self.pieces = {
            d: read(i) for d, i in sharding.addressable_devices_indices_map(shape).items()
        }

    def assert_part_of(self, whole: np.ndarray, sharding: Any) -> None:
        indices = sharding.addressable_devices_indices_map(whole.shape)
        assert self.shape == whole.shape
        assert set(self.pieces) == set(indices)
        for device, index in indices.items():
            piece = self.pieces[device]
            assert type(piece) is np.ndarray
            assert piece.dtype == whole.dtype
            np.testing.assert_array_equal(piece, whole[index])


def note_what_is_placed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrays are `Placed` instead of put on devices, some of which are not there."""
    monkeypatch.setattr(jax, "make_array_from_callback", Placed)
