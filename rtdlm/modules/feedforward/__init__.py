"""Feed-forward layers: what a token does with what it has read."""

from collections.abc import Callable
from functools import partial

import jax

from rtdlm.modules.feedforward.gated import Gated
from rtdlm.modules.feedforward.two_layer import TwoLayer, gelu, gelu_tanh, relu_squared
from rtdlm.modules.primitives import GELU, SILU

FEEDFORWARDS: dict[str, Callable[..., Callable[[jax.Array], jax.Array]]] = {
    "swiglu": partial(Gated, gate=SILU),
    "geglu": partial(Gated, gate=GELU),
    "relu2": partial(TwoLayer, activation=relu_squared),
    "gelu": partial(TwoLayer, activation=gelu),
    "gelu_tanh": partial(TwoLayer, activation=gelu_tanh),
}
"""Layer by its name in the config; each takes `d_ff`, `out_scale` and `bias`."""

__all__ = [
    "FEEDFORWARDS",
    "Gated",
    "TwoLayer",
    "gelu",
    "gelu_tanh",
    "relu_squared",
]
