"""The short convolutions of one layer, or of the embedding, by the place where they stand."""

import jax

from rtdlm.config import AGIConfig
from rtdlm.modules.primitives import Past, ShortConv

States = dict[str, jax.Array]
"""Place -> the inputs that a convolution reads again, `[B, W - 1, ...]`."""


def conv_features(config: AGIConfig) -> dict[str, tuple[int, ...]]:
    """Place -> the shape of one token there, for the convolutions that `config` has."""
    model, heads = (config.d_model,), (config.num_heads, config.head_dim)
    kv_heads = (config.kv_heads, config.head_dim)
    shapes = {
        "input": model, "attention": model, "feedforward": model,
        "queries": heads, "keys": kv_heads, "values": kv_heads,
    }  # fmt: skip
    return {place: shapes[place] for place in config.conv_places}


class Convolutions:
    """Applies those that `config` has; elsewhere it is the identity. Made anew for every call.

    Attributes:
        states: what the next call reads again; empty where rows are whole.
    """

    def __init__(self, config: AGIConfig, past: Past | None, states: States | None) -> None:
        """`states` is None where rows are whole: nothing stood before them."""
        self._config = config
        self._past = past
        self._goes_on = states is not None
        self.states = dict(states or {})

    def __call__(self, place: str, x: jax.Array) -> jax.Array:
        """`x`, a `[B, T, ...]`, with its convolution."""
        if place not in self._config.conv_places:
            return x
        assert self._past is not None
        conv = ShortConv(width=self._config.short_conv, name=f"{place}_conv")
        state = self.states[place] if self._goes_on else None
        y, state = conv(x, past=self._past, state=state)
        if state is not None:
            self.states[place] = state
        return y
