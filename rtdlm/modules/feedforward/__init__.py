"""Feed-forward layers: what a token does with what it has read."""

from collections.abc import Callable
from functools import partial

import jax

from rtdlm.modules.feedforward.swiglu import SwiGLU
from rtdlm.modules.feedforward.two_layer import TwoLayer, gelu, relu_squared

FEEDFORWARDS: dict[str, Callable[..., Callable[[jax.Array], jax.Array]]] = {
    "swiglu": SwiGLU,
    "relu2": partial(TwoLayer, activation=relu_squared),
    "gelu": partial(TwoLayer, activation=gelu),
}
"""Layer by its name in the config; each takes `d_ff` and `out_scale`."""

__all__ = ["FEEDFORWARDS", "SwiGLU", "TwoLayer", "gelu", "relu_squared"]
