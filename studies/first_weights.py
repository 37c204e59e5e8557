"""The same first weights for all sides of a study, as far as they have the same parameters.

What weights a run begins with can be worth more than what a study asks about, and a side that has a
module more draws other numbers for all that comes after it. So a side takes those of the plain one:
layer by layer, however layers are looped over; where a matrix is wider, the part that both have.
"""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from rtdlm.config import AGIConfig
from rtdlm.models.layers import layers_of
from rtdlm.parallel import path_name

Place = tuple[str, int | None]
"""Path of a parameter, or of what it is within its layer; and the layer's number, or None."""


def take_over(plain: Any, plain_config: AGIConfig, own: Any, own_config: AGIConfig) -> Any:
    """`own` parameters with the numbers of `plain` wherever those have the same; host arrays."""
    given = dict(_parts(plain, plain_config))
    own = jax.tree.map(np.array, own)
    for place, part in _parts(own, own_config):
        if place in given:
            both = tuple(map(slice, np.minimum(part.shape, given[place].shape)))
            part[both] = given[place][both]
    return own


def _parts(params: Any, config: AGIConfig) -> Iterator[tuple[Place, np.ndarray]]:
    """Every parameter, stacked ones layer by layer; views of NumPy arrays."""
    layers = list(layers_of(config))
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name, array = path_name(path), np.asarray(leaf)
        of_layers = [layer for layer in layers if name.startswith(layer.module + "/")]
        for layer in of_layers:
            yield (name.removeprefix(layer.module), layer.number), array[layer.turn]
        if not of_layers:
            yield (name, None), array
