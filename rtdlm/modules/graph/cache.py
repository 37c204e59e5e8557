"""What tokens read of earlier ones: of the row itself, or of a cache, which they fill.

Axes: B batch, T new tokens, S slots, R edge types, E key features, K hops, G features in the graph,
X experts.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rtdlm.config import GraphConfig


class GraphCache(NamedTuple):
    """What earlier tokens left behind; slot s holds position s."""

    key_BSRE: jax.Array
    state_BSKG: jax.Array
    """Before each hop."""
    logits_BSX: jax.Array | None
    """The router's, float32; None where experts are not chosen with neighbours."""

    @classmethod
    def empty(
        cls, config: GraphConfig, *shape: int, features: int, experts: int, dtype: jnp.dtype
    ) -> "GraphCache":
        """Zeros of `shape`, (layers,) batch, slots; `experts` is 0 where they are not routed."""
        return cls(
            jnp.zeros((*shape, config.num_kinds, config.query_dim), jnp.float32),
            jnp.zeros((*shape, config.hops, features), dtype),
            jnp.zeros((*shape, experts), jnp.float32) if experts else None,
        )


class Slots:
    """What tokens read of one another: of the row itself, or of a cache, which it fills."""

    def __init__(self, cache: GraphCache | None, positions_BT: jax.Array) -> None:
        self.cache = cache
        self._place = (jnp.arange(positions_BT.shape[0])[:, None], positions_BT)

    def keys(self, key_BTRE: jax.Array) -> jax.Array:
        """All keys, the new ones among them."""
        if self.cache is None:
            return key_BTRE
        return self._put("key_BSRE", self.cache.key_BSRE.at[self._place].set(key_BTRE, mode="drop"))

    def states(self, hop: int, state_BTG: jax.Array) -> jax.Array:
        """All states before `hop`, the new ones among them."""
        if self.cache is None:
            return state_BTG
        kept = self.cache.state_BSKG
        state_BTG = state_BTG.astype(kept.dtype)
        kept = kept.at[(*self._place, hop)].set(state_BTG, mode="drop")
        return self._put("state_BSKG", kept)[:, :, hop]

    def logits(self, logits_BTX: jax.Array) -> jax.Array:
        """All logits of the router, the new ones among them."""
        if self.cache is None:
            return logits_BTX
        assert self.cache.logits_BSX is not None
        kept = self.cache.logits_BSX.at[self._place].set(logits_BTX, mode="drop")
        return self._put("logits_BSX", kept)

    def _put(self, name: str, kept: jax.Array) -> jax.Array:
        assert self.cache is not None
        self.cache = self.cache._replace(**{name: kept})
        return kept
