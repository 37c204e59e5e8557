"""Which devices form a cube, told by the places of their chips."""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pytest
from jax.sharding import Mesh

from rtdlm.config import MeshConfig
from rtdlm.parallel import make_mesh
from rtdlm.parallel.cube import sides_of


@dataclass(frozen=True)
class Chip:
    """A device of which only the place matters."""

    coords: tuple[int, ...]


class Chips:
    """A mesh of chips, `fsdp` last."""

    axis_names = ("data", "fsdp")

    def __init__(self, coords: Any, *, groups: int = 1) -> None:
        self.devices = np.empty(len(coords), object)
        self.devices[:] = [Chip(tuple(place)) for place in coords]
        self.devices = self.devices.reshape(groups, -1)


def sides(chips: Chips) -> tuple[int, ...]:
    return sides_of(cast(Mesh, chips), "fsdp")


def cube(*sides: int) -> list[tuple[int, ...]]:
    return list(np.ndindex(*sides))


@pytest.mark.parametrize("shape", [(4, 4, 4), (8, 8), (2, 3, 4), (2, 2)])
def test_a_cube_is_known_by_the_chips_places(shape: tuple[int, ...]) -> None:
    assert sides(Chips(cube(*shape))) == shape
    far = np.array(cube(*shape)) + 5
    assert sides(Chips(far)) == shape, "wherever it begins"
    assert sides(Chips(far[:, ::-1])) == shape, "whichever dimension is fastest"


def test_every_group_along_fsdp_is_a_cube_of_its_own() -> None:
    assert sides(Chips(cube(4, 2, 2), groups=4)) == (2, 2)
    assert sides(Chips(cube(4, 2, 2), groups=8)) == (2,)
    assert sides(Chips(cube(4, 2, 2), groups=16)) == ()


def test_what_is_no_cube_is_a_row() -> None:
    snake = [(0, 0), (0, 1), (1, 1), (1, 0)]
    assert sides(Chips(snake)) == (4,)
    assert sides(Chips(cube(4, 1, 1))) == (4,)
    assert sides(Chips([(0, 0), (0, 0), (0, 1), (0, 1)])) == (4,), "two devices to a chip"
    assert sides(Chips(cube(2, 2, 2)[:7])) == (7,)
    assert sides_of(make_mesh(MeshConfig(fsdp=8)), "fsdp") == (8,), "processors have no places"
