"""Modules that a controller's core runs for the tokens that call them.

    written = sum_m g_m module_m(norm_m(x))     g_m: whether the policy's logit of m is positive

It goes into a step beside the token's own input. The policy chooses at the end of a step what the
next one calls, so the first calls nothing. In training every module writes for every token, and g
has the gradient of sigmoid(logit) (straight through, arXiv 1308.3432): a closed gate learns, to
first order, what it would have won. Elsewhere callers are moved together, and a module runs on as
many tiles of a row as they fill.

Axes: B batch, T time, C tokens of a tile, D model, M modules, N tables.
"""

from collections.abc import Callable
from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from rtdlm.config import AGIConfig
from rtdlm.models.deep import rows_of_chosen
from rtdlm.models.norms import make_norm
from rtdlm.modules.depths import gather, moved_together, part_of
from rtdlm.modules.knowledge import HashedMemory, ProductKeyMemory
from rtdlm.modules.quantum import QuantumLayer

CLOSED = -1.0
"""Logit of calling before the policy was asked."""
Module = Callable[[jax.Array, jax.Array | None], jax.Array]
"""Of `[B, T, D]` and the rows of n-grams `[B, T, N]`."""


class Called(NamedTuple):
    """The modules; made once, in the scope whose parameters are theirs."""

    modules: tuple[Module, ...]

    @classmethod
    def of(cls, config: AGIConfig, *, out_scale: float) -> "Called":
        """Those of `config.called`, in its order; `out_scale` as in `Block`."""
        make = {"knowledge": _knowledge, "quantum": _quantum}
        return cls(tuple(make[name](config, out_scale) for name in config.called))

    def for_all(
        self, x_BTD: jax.Array, gate_BTM: jax.Array, ngrams_BTN: jax.Array | None
    ) -> jax.Array:
        """`[B, T, D]`: every module for every token, what it writes times its gate."""
        written_BTD = jnp.zeros_like(x_BTD)
        for number, module in enumerate(self.modules):
            gate_BT1 = gate_BTM[..., number, None].astype(x_BTD.dtype)
            written_BTD += gate_BT1 * module(x_BTD, ngrams_BTN)
        return written_BTD

    def for_some(
        self, x_BTD: jax.Array, on_BTM: jax.Array, ngrams_BTN: jax.Array | None, *, tile: int
    ) -> jax.Array:
        """`[B, T, D]`: every module for its callers, `tile` tokens of a row at a time."""
        written_BTD = jnp.zeros_like(x_BTD)
        for number, module in enumerate(self.modules):
            written_BTD += _in_tiles(module, x_BTD, on_BTM[..., number], ngrams_BTN, tile)
        return written_BTD


def straight_through(logit_BTM: jax.Array, on_BTM: jax.Array) -> jax.Array:
    """1 where `on_BTM` and 0 elsewhere, with the gradient of the logit's sigmoid."""
    share_BTM = jax.nn.sigmoid(logit_BTM)
    return on_BTM.astype(share_BTM.dtype) + (share_BTM - jax.lax.stop_gradient(share_BTM))


def _in_tiles(
    module: Module, x_BTD: jax.Array, on_BT: jax.Array, ngrams_BTN: jax.Array | None, tile: int
) -> jax.Array:
    """What `module` writes for the tokens of `on_BT`, zeros for others."""
    batch, length = on_BT.shape
    together = moved_together(on_BT, -(-length // tile) * tile)
    most = jnp.max(jnp.sum(on_BT.astype(jnp.int32), axis=1))
    row_B1 = jnp.arange(batch)[:, None]

    def run(number: jax.Array, written_BTD: jax.Array) -> jax.Array:
        chosen = part_of(together, number * tile, tile)
        write_BCD = module(gather(x_BTD, chosen), rows_of_chosen(ngrams_BTN, chosen))
        return written_BTD.at[row_B1, chosen.token_BC].set(write_BCD, mode="drop")

    return hk.fori_loop(jnp.int32(0), -(-most // tile), run, jnp.zeros_like(x_BTD))


def _knowledge(config: AGIConfig, out_scale: float) -> Module:
    norm, knowledge = make_norm(config, "knowledge_norm"), config.knowledge
    if knowledge.kind == "product_key":
        search = ProductKeyMemory(knowledge, out_scale=out_scale)
        return lambda x_BTD, _: search(norm(x_BTD))
    look_up = HashedMemory(knowledge)

    def read(x_BTD: jax.Array, ngrams_BTN: jax.Array | None) -> jax.Array:
        assert ngrams_BTN is not None
        return look_up(norm(x_BTD), ngrams_BTN)

    return read


def _quantum(config: AGIConfig, out_scale: float) -> Module:
    norm = make_norm(config, "quantum_norm")
    layer = QuantumLayer(config.quantum, out_scale=out_scale)
    return lambda x_BTD, _: layer(norm(x_BTD))
