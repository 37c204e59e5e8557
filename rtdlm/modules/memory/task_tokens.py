"""Meta-task memory that attention itself reads: tokens between segments (RMT, arXiv 2207.06881).

N tokens a layer, each a key and a value of every key-value head, stand before a segment at
positions -N to -1, and its queries read them in one softmax with it. At the segment's end N learned
probes p make the next ones of its tokens and of the last ones, as RMT's writing tokens read both:

    a_ns = softmax_s(c p_n k_s / |k_s| - e^z_n |log d_s - l_n|)     k'_n = sum_s a_ns k_s

and v'_n likewise, where d_s counts from 1 at the document's last token back. Nearness by the
logarithm of a distance is that of KERPLE (arXiv 2205.09921), here around a place of each probe's
own. Before training p = 0 and l_n = log(N - n): the tokens then are about the last N of the
segment. RMT passes tokens through all layers and carries what the last one makes; here each layer
has its own.

Axes: B batch, S tokens of a segment, N tokens of memory, K key-value heads, E features.
"""

from collections.abc import Sequence
from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from rtdlm.modules.memory.scores import FIRST_SCALE, pooled, positive, probed
from rtdlm.modules.memory.short_term import ShortTerm
from rtdlm.modules.memory.tokens import last_label
from rtdlm.modules.primitives import unit, where_rows

FIRST_SLOPE = 8.0
"""How much a score falls with the logarithm of a token's distance to a probe's place, at first."""


class Probes(NamedTuple):
    """Learned; writes what a segment leaves behind."""

    probe_NKE: jax.Array
    scale_K: jax.Array
    place_NK: jax.Array
    """Logarithm of the distance that a probe looks for."""
    slope_NK: jax.Array

    def __call__(
        self, tasks: ShortTerm, key_BSKE: jax.Array, value_BSKE: jax.Array, label_BS: jax.Array
    ) -> ShortTerm:
        """The tokens after a whole segment, of its last document; with no token, as they were."""
        key, value, label = (
            jnp.concatenate([old, new.astype(old.dtype)], axis=1)
            for old, new in zip(tasks, (key_BSKE, value_BSKE, label_BS), strict=True)
        )
        label_B = last_label(label_BS, label_BS > 0, tasks.label_BW[:, -1])
        own = (label == label_B[:, None]) & (label > 0)
        back = jnp.cumsum(own[:, ::-1], axis=1)[:, ::-1]
        far = jnp.log(jnp.maximum(back, 1).astype(jnp.float32))[:, None, None]
        away = jnp.abs(far - self.place_NK.T[None, :, :, None])
        score = probed(unit(key).astype(key.dtype), self.probe_NKE, self.scale_K)
        score -= self.slope_NK.T[None, :, :, None] * away
        own_key, own_value = pooled(score, own, key, value)
        labels = jnp.broadcast_to(label_B[:, None], tasks.label_BW.shape)
        after = ShortTerm(own_key.astype(key.dtype), own_value.astype(value.dtype), labels)
        return where_rows(jnp.any(label_BS > 0, axis=1), after, tasks)


class TaskMemory(hk.Module):
    """The probes of one layer."""

    def __init__(
        self, *, tokens: int, heads: int, features: int, name: str = "task_memory"
    ) -> None:
        """For so many tokens of `heads` key-value heads."""
        super().__init__(name=name)
        self.tokens = tokens
        self.shape = (tokens, heads, features)

    def __call__(self) -> Probes:
        """The probes, of the parameters."""
        each = self.shape[:2]
        steep = hk.initializers.Constant(jnp.log(FIRST_SLOPE))
        return Probes(
            hk.get_parameter("probe", self.shape, jnp.float32, jnp.zeros),
            positive("probe_scale", self.shape[1], FIRST_SCALE),
            hk.get_parameter("place", each, jnp.float32, _first_places),
            jnp.exp(hk.get_parameter("slope", each, jnp.float32, steep)),
        )


def _first_places(shape: Sequence[int], dtype: jnp.dtype) -> jax.Array:
    last_N = jnp.log(jnp.arange(shape[0], 0, -1, dtype=jnp.float32))
    return jnp.broadcast_to(last_N[:, None], tuple(shape)).astype(dtype)
